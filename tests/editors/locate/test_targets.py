"""The fast path against the plain one, and what batching must not change."""

import pytest
import torch

from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.locate import targets
from editors.locate.targets import TargetOptimizer
from editors.models.hooks import replace_output
from editors.models.model import Model
from editors.models.modules.products import has_bfloat16_products
from editors.models.partial_forward import record
from editors.models.tokenization import tokenize_prompt
from editors.regularizers.base import Regularizer
from editors.regularizers.mpes import MPES
from editors.updates import Site
from tests import plain
from tests.tiny import FACTS, FAMILIES, NORMED, TEMPLATES, optimizer, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)
NONE = Regularizer()
REACHABLE = tuple(
    Fact(id=subject, prompt="Everyone admires {}", subject=subject, target_new=target)
    for subject, target in (("Rob", "the"), ("Ada Byron", "and"), ("Danielle Darrieux", "of"))
)
"""The shifted token itself predicts the one-token target, so a shift can make it the first choice."""
EXACT = {"rtol": 1e-9, "atol": 1e-9}
CLOSE = {"gptj": {"rtol": 1e-6, "atol": 1e-7}} | {family: {"rtol": 1e-5, "atol": 1e-6} for family in NORMED}
"""These attend, or norm what a shift has changed, in float32, whatever the precision of the model."""


@EVERY
@pytest.mark.parametrize("reference", ["block", "mlp"])
def test_targets_found_together_are_those_of_the_plain_path_one_by_one(family: str, reference):
    model = tiny_model(family)
    settings = optimizer(reference=reference)
    found = settings.find(model, FACTS, TEMPLATES, [1], NONE)
    for fact, vector in zip(FACTS, found.vectors[:, 0], strict=True):
        torch.testing.assert_close(
            vector, plain.target(model, fact, TEMPLATES, 1, settings), **CLOSE.get(family, EXACT)
        )


@pytest.mark.parametrize("kind", ["bos", "metaspace", "types"])
def test_the_plain_path_agrees_under_every_tokenizer(kind):
    model = tiny_model("llama" if kind == "metaspace" else "gpt2", kind)
    found = optimizer().find(model, FACTS, TEMPLATES, [1], NONE)
    for fact, vector in zip(FACTS, found.vectors[:, 0], strict=True):
        torch.testing.assert_close(vector, plain.target(model, fact, TEMPLATES, 1, optimizer()))


@EVERY
def test_a_fact_that_stops_early_does_not_disturb_the_others(family: str):
    model = tiny_model(family)
    settings, rule = optimizer(steps=15, learning_rate=0.1, decay=0.0), MPES(hits=2)
    found = settings.find(model, REACHABLE, TEMPLATES, [1], rule)
    for fact, vector in zip(REACHABLE, found.vectors[:, 0], strict=True):
        expected = plain.target(model, fact, TEMPLATES, 1, settings, hits=2)
        torch.testing.assert_close(vector, expected, **CLOSE.get(family, EXACT))


def test_mpes_stops_once_the_target_is_the_first_choice_and_saves_steps():
    found = optimizer(steps=15, learning_rate=0.1, decay=0.0, max_norm_ratio=9.0).find(
        tiny_model(), REACHABLE, TEMPLATES, [1], MPES(hits=2)
    )
    assert found.steps.max() < 14
    assert len(set(found.steps.tolist())) == 3, "each fact stops at a step of its own"


def test_mpes_rows_tell_whether_the_bare_prompt_counts():
    correct = torch.tensor([[False, True, True], [True, True, True], [True, False, True]])
    assert MPES(hits=1, rows="prefixed").satisfied(correct).tolist() == [True, True, False]
    assert MPES(hits=1, rows="all").satisfied(correct).tolist() == [False, True, False]


def test_the_shift_never_leaves_its_ball():
    """The last evaluation is not followed by a step."""
    model = tiny_model()
    found = optimizer(steps=9, max_norm_ratio=0.3).find(model, FACTS, TEMPLATES, [1], NONE)
    ratio = (found.vectors - found.initial).norm(dim=2) / found.initial.norm(dim=2)
    assert ratio.max() <= 0.3 + 1e-12
    assert found.steps.tolist() == [8, 8, 8]
    single = optimizer(steps=1).find(model, FACTS, TEMPLATES, [1], NONE)
    torch.testing.assert_close(single.vectors, single.initial)


def test_optimisation_raises_the_probability_of_the_target():
    model = tiny_model()
    losses = [optimizer(steps=n).find(model, FACTS, TEMPLATES, [1], NONE).losses for n in (1, 12)]
    assert (losses[1] < losses[0]).all()


def test_a_loss_that_is_no_number_names_the_fact():
    model = tiny_model()
    weight = model.weight("mlp_down", 3)
    model.write(Site("mlp_down", 3), weight * float("nan"))
    with pytest.raises(NumericsError, match=r"fact (middle|start|end) is not finite"):
        optimizer().find(model, FACTS, TEMPLATES, [1], NONE)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"targets\.steps=0, .*positive"):
        TargetOptimizer(steps=0)


def test_targets_of_bfloat16_products_are_close_and_what_is_not_optimised_is_equal():
    if not has_bfloat16_products():
        pytest.skip("this processor has no products in bfloat16")
    model = tiny_model(double=False)
    exact, rounded = (
        optimizer(precision=precision).find(model, FACTS, TEMPLATES, [1], NONE)
        for precision in (None, "bfloat16")
    )
    assert torch.equal(exact.initial, rounded.initial)
    assert not torch.equal(exact.vectors, rounded.vectors)
    shifts = [found.vectors - found.initial for found in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*shifts, dim=2).min() > 0.99


@pytest.mark.parametrize(
    ("double", "supported", "reason"), [(True, True, "float64"), (False, False, "lacks")]
)
def test_a_precision_that_products_cannot_have_is_refused(
    double, supported, reason, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(targets, "has_bfloat16_products", lambda: supported)
    with pytest.raises(ConfigError, match=rf"editor\.targets\.precision=bfloat16 .*{reason}"):
        optimizer(precision="bfloat16").check(tiny_model(double=double))


@EVERY
def test_replaying_recorded_blocks_gives_what_the_model_gave(family: str):
    model = tiny_model(family)
    rows = [model.encode([text])[0][0].tolist() for text in ("Rob.", "The river is little and Rob walks.")]
    prefixes, tails = [row[:k] for row, k in zip(rows, (0, 4), strict=True)], [rows[0], rows[1][4:]]
    replay = record(model, prefixes, tails, 1)
    replayed = model.normed(replay.run(replay.hidden, 1, model.depth - 1))
    for i, row in enumerate(rows):
        ids = torch.tensor([row])
        whole = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        torch.testing.assert_close(replayed[i, : len(tails[i])], whole[len(prefixes[i]) :])
    alone = replay.select(torch.tensor([1]))
    torch.testing.assert_close(alone.run(alone.hidden, 1, 3), replay.run(replay.hidden, 1, 3)[1:])


def test_the_head_runs_only_where_the_loss_reads(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    rows: list[int] = []
    head = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: rows.append(hidden[..., 0].numel()) or head(hidden))
    optimizer(steps=2, loss_threshold=-1e9).find(model, FACTS, TEMPLATES, [1], NONE)
    templates = sum(len(group) for group in TEMPLATES)
    targets = [
        len(tokenize_prompt(model.tokenizer, fact, target=fact.target_new).target_ids) for fact in FACTS
    ]
    assert rows == [templates * sum(targets) + len(FACTS)] * 2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("steps", [1, 15])
def test_a_target_is_correct_if_the_whole_model_says_the_object_with_it_in_place(family: str, steps: int):
    """Measured by running every prompt as a whole, in a batch that is sorted and optimised two at a time."""
    model = tiny_model(family)
    settings = optimizer(steps=steps, learning_rate=0.3, decay=0.0, max_norm_ratio=1.5, facts_at_once=2)
    facts = (*REACHABLE, *FACTS)
    found = settings.find(model, facts, TEMPLATES, [1], NONE)
    assert found.correct.tolist() == [
        _says_with_target(model, fact, vector)
        for fact, vector in zip(facts, found.vectors[:, 0], strict=True)
    ]
    if steps == 15:
        assert found.correct.any() and not found.correct.all(), "the cases tell both apart"


def _says_with_target(model: Model, fact: Fact, vector: torch.Tensor) -> bool:
    row = tokenize_prompt(model.tokenizer, fact, target=fact.target_new)

    def write(output: torch.Tensor) -> torch.Tensor:
        return output.index_copy(1, torch.tensor([row.subject_last]), vector[None, None])

    with torch.no_grad(), replace_output(model.module("block", 1), write):
        logits = model.hf(torch.tensor([row.ids[:-1]])).logits[0]
    return tuple(logits[-len(row.target_ids) :].argmax(dim=1).tolist()) == row.target_ids
