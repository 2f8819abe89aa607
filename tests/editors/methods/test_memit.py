"""MEMIT and what it shares with all that locate: the plain path, history, what is refused."""

from dataclasses import fields, replace

import pytest
import torch
from tokenizers import processors

from editors.errors import ConfigError, NumericsError
from editors.locate.keys import Keys
from editors.methods.memit import MEMIT
from editors.moments.moment_sources import GivenMoments
from editors.regularizers.base import Regularizer
from editors.regularizers.history import History
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_constraint import NormConstraint
from editors.regularizers.rect import Rect
from editors.updates import Site
from tests import plain
from tests.editors.cases import bits, make_alphaedit, make_memit, make_rome, perform, same_bits
from tests.tiny import FACTS, FAMILIES, LINEAR, NORMED, TEMPLATES, moments, optimizer, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)
LINEARLY = pytest.mark.parametrize("family", LINEAR)


@EVERY
@pytest.mark.parametrize("layers", [[0, 1], [0, 2]])
def test_memit_is_the_plain_path_with_all_facts_in_one_batch(family, layers):
    model = tiny_model(family)
    made = make_memit(model, layers=layers)
    made.prepare(model)
    found = made.edit(model, FACTS).update
    preserved = {layer: 0.5 * m for layer, m in moments(model).matrices.items()}
    expected = plain.memit(model, FACTS, TEMPLATES, layers, preserved, optimizer())
    for layer, delta in expected.items():
        torch.testing.assert_close(found[Site("mlp_down", layer)].dense(), delta)


@LINEARLY
@pytest.mark.parametrize("layers", [[0, 1], [0, 2], [1]])
def test_forward_replay_is_the_plain_path_with_a_target_for_every_block(family, layers):
    model = tiny_model(family)
    made = make_memit(model, layers=layers, replay=True)
    made.prepare(model)
    before = bits(model)
    found = made.edit(model, FACTS).update
    assert same_bits(model, before)
    preserved = {layer: 0.5 * m for layer, m in moments(model).matrices.items()}
    expected = plain.replayed_memit(model, FACTS, TEMPLATES, layers, preserved, optimizer())
    assert len(found) == len(layers)
    for layer, delta in expected.items():
        torch.testing.assert_close(found[Site("mlp_down", layer)].dense(), delta)


@pytest.mark.parametrize("make", [make_memit, make_alphaedit])
def test_forward_replay_with_one_block_changes_nothing(make):
    model, updates = tiny_model(), []
    for replay in (False, True):
        made = make(model, layers=[1], replay=replay)
        made.prepare(model)
        (delta,) = made.edit(model, FACTS).update.values()
        updates.append(delta.dense())
    torch.testing.assert_close(*updates)


def test_forward_replay_is_refused_where_targets_lie_inside_a_block():
    with pytest.raises(ConfigError, match=r"editor\.replay sets targets at the output of blocks, but rome"):
        make_rome(tiny_model(), replay=True)


@pytest.mark.parametrize("family", NORMED)
def test_forward_replay_is_refused_where_every_block_has_a_target_of_its_own(family):
    model = tiny_model(family)
    with pytest.raises(ConfigError, match=rf"editor\.replay=true .* tiny-{family} .*: leave it out"):
        make_memit(model, replay=True).prepare(model)


def test_compensation_is_the_published_error_in_the_equations():
    """Δ = (R Kᵀ − E) (A + K Kᵀ)⁻¹ with E = (Δ′ − Δ) (A₀ + K₀ K₀ᵀ), after one edit that RECT has cut."""
    model, rules = tiny_model(), {"history": History(keys="before"), "rect": Rect(keep=0.3)}
    made = make_memit(model, layers=[1], regularizers=rules, compensate=True)
    made.prepare(model)
    a = 0.5 * moments(model).matrices[1].double()
    start, keys = model.weight("mlp_down", 1).clone(), keys_in(model, FACTS[:2])
    first = made.edit(model, FACTS[:2])
    solved = plain.memit(model, FACTS[:2], TEMPLATES, [1], {1: a}, optimizer())[1].double()
    model.apply(first.update)
    made.commit(model, FACTS[:2], first)
    a = a + keys @ keys.T
    error = (model.weight("mlp_down", 1) - start - solved).double() @ a
    new = keys_in(model, FACTS[2:])
    vectors = [plain.target(model, fact, TEMPLATES, 1, optimizer()) for fact in FACTS[2:]]
    written = [plain.written(model, fact, (("{}",),), "block", 1) for fact in FACTS[2:]]
    residual = (torch.stack(vectors) - torch.stack(written)).T.double()
    expected = (residual @ new.T - error) @ torch.linalg.inv(a + new @ new.T)
    ours = made._solve(1, Keys(new, new), residual).dense().double()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    plainly = residual @ new.T @ torch.linalg.inv(a + new @ new.T)
    assert (expected - plainly).norm() > 0.1 * plainly.norm()


def keys_in(model, facts) -> torch.Tensor:
    return torch.stack([plain.key(model, fact, TEMPLATES, 1) for fact in facts]).double().T


def test_compensation_needs_a_history():
    with pytest.raises(ConfigError, match=r"editor\.compensate .* needs the regularizer history;"):
        make_memit(tiny_model(), regularizers={"rect": Rect()}, compensate=True)


class Unrounded(MEMIT):
    """MEMIT whose updates stay in float64."""

    def solve(self, *problem):
        return replace(super().solve(*problem), dtype=None)


@LINEARLY
def test_the_unrounded_update_is_the_plain_one_to_the_last_digits(family):
    model, layers = tiny_model(family), [0, 2]
    memit = make_memit(model, layers=layers)
    made = Unrounded(**{field.name: getattr(memit, field.name) for field in fields(memit)})
    made.prepare(model)
    edit = made.edit(model, FACTS)
    preserved = {layer: 0.5 * m for layer, m in moments(model).matrices.items()}
    expected = plain.insert(model, FACTS, TEMPLATES, layers, preserved, edit.targets, rounded=torch.float64)
    exact = 1e-9 if family in ("gpt2", "neox") else 1e-6  # the others norm or attend in float32
    for site, delta in edit.update.items():
        difference = delta.dense() - expected[site.layer]
        assert difference.norm() < exact * expected[site.layer].norm()


def test_strengths_are_told_in_a_form_that_models_share():
    """λp tr(C)/d stays if keys are ten times as long and the weight a hundredth; r tells λn beside it."""
    model, layers = tiny_model(), [0, 2]
    given = moments(model)
    longer = GivenMoments(matrices={layer: 100 * matrix for layer, matrix in given.matrices.items()})
    constraint = {"norm_constraint": NormConstraint(weight=3.0)}
    edits = []
    for weight, source in ((0.5, given), (0.005, longer)):
        made = make_memit(model, layers=layers, regularizers=constraint)
        made = replace(made, preservation_weight=weight, moments=source)
        made.prepare(model)
        edits.append(made.edit(model, FACTS[:1]).diagnostics)
    mean = sum(float(given.matrices[layer].diagonal().mean()) for layer in layers) / len(layers)
    for told in edits:
        assert told["preservation"] == pytest.approx(0.5 * mean, rel=1e-6)
        assert told["constraint_share"] == pytest.approx(3.0 / (0.5 * mean), rel=1e-6)
    made = make_memit(model, layers=layers)
    made.prepare(model)
    assert "constraint_share" not in made.edit(model, FACTS[:1]).diagnostics


def test_encore_without_its_three_additions_is_memit():
    model = tiny_model()
    plain_memit, bare = make_memit(model), make_memit(model, name="encore", regularizers={})
    for made in (plain_memit, bare):
        made.prepare(model)
    one, other = (made.edit(model, FACTS).update for made in (plain_memit, bare))
    assert all(torch.equal(one[site].dense(), other[site].dense()) for site in one)


def test_the_norm_constraint_makes_every_update_smaller():
    model = tiny_model()
    sizes = []
    for weight in (None, 0.1, 10.0):
        chosen = {} if weight is None else {"norm_constraint": NormConstraint(weight=weight)}
        made = make_memit(model, layers=[1], regularizers=chosen)
        made.prepare(model)
        sizes.append(made.edit(model, FACTS).update[Site("mlp_down", 1)].norm())
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.6 * sizes[0]


def test_history_preserves_what_an_earlier_edit_wrote():
    def disturbance(remember: bool) -> float:
        model = tiny_model()
        chosen = {"history": History()} if remember else {}
        made = make_memit(model, layers=[1], preservation_weight=1e-3, regularizers=chosen)
        made.prepare(model)
        first = made.edit(model, FACTS[:1])
        model.apply(first.update)
        made.commit(model, FACTS[:1], first)
        later = made.edit(model, FACTS[1:]).update[Site("mlp_down", 1)]
        return float((later.dense().double() @ first.memory[1]).norm())

    assert disturbance(remember=True) < 0.2 * disturbance(remember=False)


def test_keys_before_and_after_an_edit():
    """Keys after an edit are those of the edited weights, keys before those of the solution."""

    def remembered(keys: str, sparse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The kept keys of block 1, and the plain ones of the edited weights."""
        model = tiny_model()
        chosen = {"history": History(keys=keys)} | ({"rect": Rect(keep=0.2)} if sparse else {})
        made = make_memit(model, regularizers=chosen)
        made.prepare(model)
        perform(model, made, FACTS)
        plainly = torch.stack([plain.key(model, fact, TEMPLATES, 1) for fact in FACTS])
        return made.state_dict()["keys.1"].T, plainly

    torch.testing.assert_close(*remembered("after", sparse=True))
    kept, written = remembered("before", sparse=True)
    assert (kept - written).norm() > 1e-3 * written.norm(), "block 0 was solved densely and written sparsely"
    torch.testing.assert_close(*remembered("before", sparse=False))


def test_a_failing_batch_names_one_of_its_facts_and_gives_the_weights_back():
    model = tiny_model()
    made = make_memit(model)
    made.prepare(model)
    model.write(Site("mlp_down", 3), model.weight("mlp_down", 3) * float("inf"))
    before = bits(model)
    with pytest.raises(NumericsError, match=r"fact (middle|start|end) is not finite"):
        made.edit(model, FACTS)
    assert same_bits(model, before)


@pytest.mark.parametrize("make", [make_memit, make_alphaedit])
def test_moments_of_another_model_are_refused(make):
    model = tiny_model()
    made = make(model, moments=GivenMoments(matrices={0: torch.eye(5), 1: torch.eye(5)}), regularizers={})
    with pytest.raises(ConfigError, match=r"second moment of layer 0 is \(5, 5\).*width 128"):
        made.prepare(model)


def test_choices_that_make_no_sense_are_refused_before_any_work():
    model = tiny_model()
    with pytest.raises(ConfigError, match="one and two both decide"):
        make_memit(model, regularizers={"one": MPES(hits=1), "two": MPES(hits=2)})
    with pytest.raises(ConfigError, match=r"layers\.edit=\[1, 2\].*exactly one layer"):
        make_rome(model, layers=[1, 2])
    with pytest.raises(ConfigError, match="preservation_weight=0"):
        make_memit(model, preservation_weight=0.0)
    made = make_rome(model)
    made.prepare(model)
    with pytest.raises(ConfigError, match="batch_size=2"):
        made.edit(model, FACTS[:2])


def test_the_last_block_cannot_be_edited_and_the_error_says_why():
    model = tiny_model()
    with pytest.raises(ConfigError, match="end at block 2 or below"):
        make_memit(model, layers=[2, 3]).prepare(model)


def test_an_editor_belongs_to_the_model_it_was_prepared_for():
    model, other = tiny_model(), tiny_model("llama")
    made = make_memit(model)
    made.prepare(model)
    made.prepare(model)
    with pytest.raises(ConfigError, match="prepared for another model"):
        made.prepare(other)


def test_an_appended_end_of_text_token_is_ignored():
    """It is neither trained nor part of the target."""
    plain_end, with_end = tiny_model(), tiny_model()
    core = with_end.tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", 0)])
    one, other = (
        optimizer().find(model, FACTS, TEMPLATES, [1], Regularizer()).vectors
        for model in (plain_end, with_end)
    )
    torch.testing.assert_close(one, other)
