"""Regularizers together and with every editor: their order, what is refused, sequences and resuming."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from editors.errors import ConfigError
from editors.models.model import Model
from editors.regularizers.base import Progress, Regularizer
from editors.regularizers.composition import RegularizerChain
from editors.regularizers.history import History
from editors.regularizers.hypersphere import Hypersphere
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_anchor import NormAnchor
from editors.regularizers.norm_constraint import NormConstraint
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.prune import Prune
from editors.regularizers.rect import Rect
from editors.regularizers.simie import SimIE
from editors.regularizers.subspace_guard import SubspaceGuard
from tests.editors.cases import LOCATING, bits, make_alphaedit, make_memit, make_rome, perform, same_bits
from tests.editors.locate.test_targets import REACHABLE
from tests.editors.regularizers.test_regularizers import SITE, delta_of
from tests.tiny import FACTS, tiny_model


@pytest.fixture
def model() -> Model:
    return tiny_model()


EVERY_KIND: dict[str, Callable[[], Regularizer]] = {
    "mpes": lambda: MPES(hits=1, rows="all"),
    "norm_anchor": lambda: NormAnchor(samples=2),
    "norm_constraint": lambda: NormConstraint(weight=0.5),
    "history": History,
    "history_before": lambda: History(keys="before"),
    "history_after": lambda: History(keys="after"),
    "rect": Rect,
    "rect_absolute": lambda: Rect(absolute=True),
    "prune": lambda: Prune(every=2),
    "subspace_guard": SubspaceGuard,
    "hypersphere": Hypersphere,
    "norm_reset": lambda: NormReset(every=2),
    "simie": SimIE,
}
SINGLE = ("rome", "r_rome")
EDITORS = (*SINGLE, "memit", "emmet", "emmet_exact", "pmet", "alphaedit", "lti")


def sampled_pairs(per_kind: int = 3) -> list[tuple[str, str]]:
    """Pairs of an editor and a kind of regularizer: some editors per kind, drawn with a fixed seed.

    No kind depends on the name of an editor, so that not all pairs are needed. Editors without remembered
    keys refuse the history.
    """
    rng = random.Random(0)
    return [
        (editor, kind)
        for kind in EVERY_KIND
        for editor in rng.sample([e for e in EDITORS if not (e in SINGLE and "history" in kind)], per_kind)
    ]


def test_the_sampled_pairs_cover_every_editor_at_least_twice():
    counts = Counter(editor for editor, _ in sampled_pairs())
    assert min(counts[editor] for editor in EDITORS) >= 2


@pytest.mark.parametrize(("editor", "kind"), sampled_pairs())
def test_a_regularizer_works_with_an_editor_that_locates(model, editor, kind):
    made = LOCATING[editor](model, regularizers={kind: EVERY_KIND[kind]()})
    made.prepare(model, FACTS)
    before = bits(model)
    perform(model, made, FACTS[:1], FACTS[1:2])
    now = model.hf.state_dict()
    assert all(bool(value.isfinite().all()) for value in now.values())
    assert sum(not torch.equal(value, before[key]) for key, value in now.items()) == len(made.sites)


def test_all_of_them_together_run_a_sequence(model):
    chosen = {
        kind: make() for kind, make in EVERY_KIND.items() if "_before" not in kind and "_after" not in kind
    }
    made = make_memit(model, regularizers=chosen | {"norm_reset": NormReset(every=2)})
    made.prepare(model, FACTS)
    perform(model, made, FACTS[:1], FACTS[1:])
    assert all(bool(value.isfinite().all()) for value in model.hf.state_dict().values())


MANY = FACTS + REACHABLE
"""Enough keys for their layout in memory to decide about the last bit."""
RESUMED: dict[str, dict[str, Callable[[], Regularizer]]] = {
    "history before": {"history": lambda: History(keys="before"), "rect": Rect},
    "history after": {"history": lambda: History(keys="after"), "rect": Rect},
    "prune": {"prune": lambda: Prune(every=9), "history": History},
    "norm reset": {"norm_reset": lambda: NormReset(every=9)},
    "simie": {"simie": lambda: SimIE(weight=3.0), "history": History},
    "anchor and sphere": {"norm_anchor": lambda: NormAnchor(samples=2), "hypersphere": Hypersphere},
}


@pytest.mark.parametrize("editor", [make_memit, make_alphaedit])
@pytest.mark.parametrize("case", RESUMED)
def test_a_restored_editor_continues_with_the_same_bits(editor, case):
    """Two editors prepared on the unedited model; one edits from the start, the other takes over."""
    model = tiny_model()
    made, twin = (
        editor(
            model,
            regularizers={kind: make() for kind, make in RESUMED[case].items()},
            compensate="history" in RESUMED[case],
        )
        for _ in range(2)
    )
    for each in (made, twin):
        each.prepare(model, FACTS)
    perform(model, made, MANY, FACTS[:1])
    twin.load_state_dict({key: value.clone() for key, value in made.state_dict().items()})
    other = tiny_model()
    other.hf.load_state_dict(bits(model))
    for target, each in ((model, made), (other, twin)):
        perform(target, each, FACTS[1:2], MANY)
    assert same_bits(other, bits(model))


@pytest.mark.parametrize("backwards", [False, True])
def test_regularizers_of_one_point_act_in_a_fixed_order(model, backwards):
    """The guard, the sphere, rect, prune and simie do not commute, and norm_reset comes last."""
    chosen = {
        "subspace_guard": SubspaceGuard(energy=0.3),
        "hypersphere": Hypersphere(),
        "rect": Rect(),
        "prune": Prune(every=1),
        "simie": SimIE(),
        "norm_reset": NormReset(every=3),
    }
    if backwards:
        chosen = dict(reversed(chosen.items()))
    chain = RegularizerChain(chosen, "memit")
    chain.prepare(model, [SITE])
    delta, weight = delta_of(model, size=0.7), model.weight(*SITE)
    expected = delta
    for name in ("subspace_guard", "hypersphere"):
        expected = chosen[name].project(SITE, expected)
    assert torch.equal(chain.project(SITE, delta).dense(), expected.dense())
    swapped = chosen["subspace_guard"].project(SITE, chosen["hypersphere"].project(SITE, delta))
    assert (swapped.dense() - expected.dense()).norm() > 1e-3 * expected.norm()
    projected = expected
    chosen["simie"].read(model, [SITE], FACTS)
    for name in ("rect", "prune", "simie", "norm_reset"):
        expected = chosen[name].finish(SITE, expected, weight, Progress(2, 3))
    finished = chain.finish({SITE: projected}, model, FACTS, Progress(2, 3))
    assert torch.equal(finished[SITE].dense(), expected.dense())


REFUSED = {
    "both decide when a target is final": {"one": MPES(hits=1), "two": MPES(hits=2)},
    "scales the matrix more often": {"prune": Prune(every=5), "norm_reset": NormReset(every=4)},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_contradictory_combination_is_refused_before_any_work(model, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_memit(model, regularizers=REFUSED[sentence])


@pytest.mark.parametrize("mode", ["rome", "r_rome", "p_rome", "pr44"])
def test_history_is_refused_where_the_equations_have_no_place_for_it(model, mode):
    with pytest.raises(ConfigError, match=r"history keeps the keys .* rome has no place"):
        make_rome(model, key_mode=mode, regularizers={"history": History()})


@pytest.mark.parametrize("make", [make_memit, make_alphaedit, make_rome])
def test_an_anchor_without_facts_is_refused(model, make):
    """It is refused before any statistics are loaded, at every attempt."""

    class Unasked:
        label = "none"

        def load(self, model, layers, report):
            raise AssertionError("statistics were loaded first")

        spectra = load

    made = make(model, regularizers={"norm_anchor": NormAnchor()}, moments=Unasked())
    before = bits(model)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"norm_anchor .* facts"):
            made.prepare(model)
    assert same_bits(model, before)
