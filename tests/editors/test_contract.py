"""What every editor promises, on every family: one row below for each editor."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import processors

from editors.editor import Editor
from editors.errors import ConfigError, NumericsError
from editors.locate.locate import LocateThenEdit
from editors.locate.moments import GivenMoments
from editors.locate.regularizers import MPES, History, NormConstraint, Regularizer
from editors.memit import MEMIT
from editors.model.deltas import Site
from editors.model.model import Model
from editors.rome import ROME
from tests import plain
from tests.tiny import FACTS, FAMILIES, TEMPLATES, contexts, moments, optimizer, tiny_model


def make_memit(model: Model, **changes: object) -> LocateThenEdit:
    given = {
        "name": "memit",
        "layers": [0, 1],
        "targets": optimizer(),
        "contexts": contexts(),
        "moments": moments(model),
        "preservation_weight": 0.5,
    }
    return MEMIT(**(given | changes))


def make_encore(model: Model) -> LocateThenEdit:
    chosen = {"history": History(), "mpes": MPES(hits=2), "norm_constraint": NormConstraint(weight=0.5)}
    return make_memit(model, name="encore", regularizers=chosen)


def make_rome(model: Model, **changes: object) -> LocateThenEdit:
    given = {
        "name": "rome",
        "layers": [1],
        "targets": optimizer(reference="mlp"),
        "contexts": contexts(),
        "moments": moments(model),
    }
    return ROME(**(given | changes))


EDITORS: dict[str, Callable[[Model], Editor]] = {
    "rome": make_rome,
    "memit": make_memit,
    "encore": make_encore,
}
EVERY = pytest.mark.parametrize("family", FAMILIES)
EACH = pytest.mark.parametrize("editor", EDITORS)


def bits(model: Model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.hf.state_dict().items()}


def chance(model: Model, fact_index: int) -> float:
    """Log-probability of the new object after the edited prompt."""
    fact = FACTS[fact_index]
    ids, mask = model.encode([f"{fact.statement} {fact.target_new}"])
    prompt = len(model.encode([fact.statement])[0][0])
    said = model.logits(model.hidden(ids, mask))[0].log_softmax(dim=-1)
    return float(said[prompt - 1 : -1].gather(1, ids[0, prompt:, None]).mean())


@EVERY
@EACH
def test_edit_leaves_the_weights_as_they_were_and_applying_it_makes_the_target_likelier(family, editor):
    model = tiny_model(family)
    made = EDITORS[editor](model)
    made.prepare(model)
    before, rng, expected = bits(model), torch.get_rng_state(), chance(model, 0)
    edit = made.edit(model, FACTS[:1])
    assert all(torch.equal(before[key], value) for key, value in model.hf.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    assert set(edit.update) == set(made.sites)
    model.apply(edit.update)
    assert chance(model, 0) > expected


@EACH
def test_the_same_edits_give_the_same_bits(editor):
    def sequence() -> dict[str, torch.Tensor]:
        model = tiny_model()
        made = EDITORS[editor](model)
        made.prepare(model)
        for fact in FACTS:
            edit = made.edit(model, [fact])
            model.apply(edit.update)
            made.commit(model, [fact], edit)
        return bits(model)

    one, other = sequence(), sequence()
    assert all(torch.equal(one[key], other[key]) for key in one)


@EACH
def test_two_editors_in_one_process_do_not_share_anything(editor):
    def last_update(disturbed: bool) -> torch.Tensor:
        model = tiny_model()
        made = EDITORS[editor](model)
        made.prepare(model)
        if disturbed:
            other_model = tiny_model("llama")
            other = EDITORS["encore"](other_model)
            other.prepare(other_model)
            other.commit(other_model, FACTS[1:2], other.edit(other_model, FACTS[1:2]))
        (_, delta), *_ = made.edit(model, FACTS[:1]).update.items()
        return delta.dense()

    assert torch.equal(last_update(False), last_update(True))


@EACH
def test_state_survives_a_round_trip(editor):
    model = tiny_model()
    first, second = EDITORS[editor](model), EDITORS[editor](model)
    for made in (first, second):
        made.prepare(model)
    edit = first.edit(model, FACTS[:1])
    model.apply(edit.update)
    first.commit(model, FACTS[:1], edit)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for one, other in zip(
        first.edit(model, FACTS[1:2]).update.values(),
        second.edit(model, FACTS[1:2]).update.values(),
        strict=True,
    ):
        torch.testing.assert_close(one.dense(), other.dense())


@EVERY
def test_memit_is_the_plain_path_with_all_facts_in_one_batch(family):
    model = tiny_model(family)
    made = make_memit(model)
    made.prepare(model)
    found = made.edit(model, FACTS).update
    preserved = {layer: 0.5 * m for layer, m in moments(model).matrices.items()}
    expected = plain.memit(model, FACTS, TEMPLATES, [0, 1], preserved, optimizer())
    for layer, delta in expected.items():
        torch.testing.assert_close(found[Site("mlp_down", layer)].dense(), delta)


@EVERY
def test_rome_is_the_plain_path(family):
    model = tiny_model(family)
    made = make_rome(model)
    made.prepare(model)
    expected = plain.rome(
        model, FACTS[0], TEMPLATES, 1, moments(model).matrices[1], optimizer(reference="mlp")
    )
    torch.testing.assert_close(made.edit(model, FACTS[:1]).update[Site("mlp_down", 1)].dense(), expected)


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


def test_a_failing_edit_gives_the_weights_back():
    model = tiny_model()
    made = make_memit(model)
    made.prepare(model)
    model.write(Site("mlp_down", 3), model.weight("mlp_down", 3) * float("inf"))
    before = bits(model)
    with pytest.raises(NumericsError, match="fact (middle|start|end) is not finite"):
        made.edit(model, FACTS)
    for key, value in model.hf.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


def test_moments_of_another_model_are_refused():
    model = tiny_model()
    made = make_memit(model, moments=GivenMoments(matrices={0: torch.eye(5), 1: torch.eye(5)}))
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


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_edits_are_those_of_float32_up_to_the_precision_of_the_forward_pass(editor, dtype):
    updates = []
    for precision in (torch.float32, dtype):
        model = tiny_model(double=False)
        model.hf.to(precision)
        made = EDITORS[editor](model)
        made.prepare(model)
        edit = made.edit(model, FACTS[:1])
        model.apply(edit.update)
        updates.append(next(iter(edit.update.values())).dense().double())
    assert (updates[1] - updates[0]).norm() < 0.3 * updates[0].norm()


def test_the_last_block_cannot_be_edited_and_the_error_says_why():
    model = tiny_model()
    with pytest.raises(ConfigError, match="reaches no later token; end at block 2 or below"):
        make_memit(model, layers=[2, 3]).prepare(model)


def test_an_editor_belongs_to_the_model_it_was_prepared_for():
    model, other = tiny_model(), tiny_model("llama")
    made = make_memit(model)
    made.prepare(model)
    made.prepare(model)
    with pytest.raises(ConfigError, match="prepared for another model"):
        made.prepare(other)


def test_an_appended_end_of_text_token_is_neither_trained_nor_part_of_the_target():
    plain_end, with_end = tiny_model(), tiny_model()
    core = with_end.tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", 0)])
    one, other = (
        optimizer().find(model, FACTS, TEMPLATES, 1, Regularizer()).vectors for model in (plain_end, with_end)
    )
    torch.testing.assert_close(one, other)
