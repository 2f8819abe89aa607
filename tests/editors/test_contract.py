"""What every editor promises, on every family; `cases.py` holds one row for each editor."""

import re
from dataclasses import replace
from operator import attrgetter

import pytest
import torch

from editors.base import Editor
from editors.errors import NumericsError
from editors.regularizers.base import Regularizer
from editors.updates import Delta, Site
from tests.editors.cases import EDITORS, LOCATING, bits, chance, perform, same_bits
from tests.tiny import FACTS, FAMILIES, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)
EACH = pytest.mark.parametrize("editor", EDITORS)
LOCATES = pytest.mark.parametrize("editor", LOCATING)
SINGLE = ("rome", "r_rome", "p_rome", "pr44")
"""Editors of one fact at a time."""
BATCHED = pytest.mark.parametrize("editor", [name for name in EDITORS if name not in SINGLE])


@EVERY
@EACH
def test_an_edit_changes_weights_only_once_it_is_applied(family, editor):
    """Editing leaves the weights unchanged; applying the update makes the target likelier."""
    model = tiny_model(family)
    made = EDITORS[editor](model)
    made.prepare(model)
    before, rng, expected = bits(model), torch.get_rng_state(), chance(model, FACTS[0])
    edit = made.edit(model, FACTS[:1])
    assert same_bits(model, before)
    assert torch.equal(rng, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())
    assert set(edit.update) == set(made.sites)
    model.apply(edit.update)
    made.commit(model, FACTS[:1], edit)
    assert chance(model, FACTS[0]) > expected
    changed = {key for key, value in model.hf.state_dict().items() if not torch.equal(value, before[key])}
    assert len(changed) == len(made.sites), "nothing but the named matrices changes"


@EACH
def test_the_same_edits_give_the_same_bits_whatever_the_random_state(editor):
    def sequence(seed: int) -> dict[str, torch.Tensor]:
        model = tiny_model()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = EDITORS[editor](model)
            made.prepare(model)
            perform(model, made, FACTS[:1], FACTS[1:2])
        return bits(model)

    one, other = sequence(0), sequence(1)
    assert all(torch.equal(one[key], other[key]) for key in one)


@EACH
def test_two_editors_in_one_process_do_not_share_anything(editor):
    def last_update(disturbed: bool) -> torch.Tensor:
        model = tiny_model()
        made = EDITORS[editor](model)
        made.prepare(model)
        if disturbed:
            elsewhere = tiny_model("llama")
            other, twin = EDITORS[editor](elsewhere), EDITORS[editor](model)
            other.prepare(elsewhere)
            perform(elsewhere, other, FACTS[1:2])
            twin.prepare(model)
            twin.commit(model, FACTS[1:2], twin.edit(model, FACTS[1:2]))
        (_, delta), *_ = made.edit(model, FACTS[:1]).update.items()
        return delta.dense()

    assert torch.equal(last_update(False), last_update(True))


@EACH
def test_it_is_what_runs_expect(editor):
    assert isinstance(EDITORS[editor](tiny_model()), Editor)


@EACH
def test_preparing_again_changes_nothing(editor):
    model = tiny_model()
    made = EDITORS[editor](model)
    made.prepare(model)
    expected = made.edit(model, FACTS[:1]).update
    made.prepare(model)
    found = made.edit(model, FACTS[:1]).update
    assert all(torch.equal(expected[site].dense(), found[site].dense()) for site in expected)


@EACH
def test_an_editor_restored_from_its_state_continues_bit_for_bit(editor):
    def restored(made: Editor) -> Editor:
        twin = EDITORS[editor](tiny_model())
        twin.prepare(tiny_model())
        twin.load_state_dict({key: value.clone() for key, value in made.state_dict().items()})
        return twin

    model = tiny_model()
    made = EDITORS[editor](model)
    made.prepare(model)
    perform(model, made, FACTS[:1], FACTS[1:2])
    twin = restored(made)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in made.state_dict().items())
    one, other = (each.edit(model, FACTS[2:]).update for each in (made, twin))
    assert all(torch.equal(one[site].dense(), other[site].dense()) for site in one)


@EACH
def test_the_padding_side_of_the_tokenizer_does_not_matter(editor):
    updates = []
    for side in ("right", "left"):
        model = tiny_model()
        model.tokenizer.padding_side = side
        made = EDITORS[editor](model)
        made.prepare(model)
        updates.append(made.edit(model, FACTS[:1]).update)
    assert all(torch.equal(updates[0][site].dense(), updates[1][site].dense()) for site in updates[0])


@LOCATES
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_target_does_not_depend_on_who_else_is_in_the_batch(family, editor):
    model = tiny_model(family)
    optimiser, groups = LOCATING[editor](model).targets, LOCATING[editor](model).contexts.groups(model)
    together = optimiser.find(model, FACTS, groups, [1], Regularizer()).vectors
    alone = [optimiser.find(model, [fact], groups, [1], Regularizer()).vectors for fact in FACTS]
    chunked = replace(optimiser, facts_at_once=1).find(model, FACTS, groups, [1], Regularizer()).vectors
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(together, chunked, rtol=1e-9, atol=1e-9)


@BATCHED
def test_the_order_of_the_facts_in_a_batch_does_not_matter(editor):
    model = tiny_model()
    made = EDITORS[editor](model)
    made.prepare(model)
    one, other = (made.edit(model, facts).update for facts in (FACTS, FACTS[::-1]))
    for site, delta in one.items():
        torch.testing.assert_close(delta.dense(), other[site].dense(), rtol=1e-5, atol=1e-7)


@EACH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_model_stops_the_edit(editor, bad):
    """The error names the fact, and the model stays unchanged."""
    model = tiny_model()
    made = EDITORS[editor](model)
    made.prepare(model)
    model.write(Site("mlp_down", 3), model.weight("mlp_down", 3) * bad)
    before = bits(model)
    with pytest.raises(NumericsError, match="fact start "):
        made.edit(model, FACTS[1:2])
    assert same_bits(model, before)


class Spoiling(Regularizer):
    """Breaks the target of the last fact, or the update of one matrix."""

    def __init__(self, value: float, layer: int | None) -> None:
        self.value, self.layer = value, layer

    def aim(self, targets):
        vectors = targets.vectors.clone()
        if self.layer is None:
            vectors[-1, :, 3] = self.value
        return replace(targets, vectors=vectors)

    def project(self, site: Site, delta: Delta) -> Delta:
        return replace(delta, left=delta.left * self.value) if site.layer == self.layer else delta


def spoilt(editor: str, value: float, layer: int | None) -> str:
    """The message that editing with such a regularizer ends in."""
    model = tiny_model()
    made = LOCATING[editor](model, regularizers={"spoiling": Spoiling(value, layer)})
    made.prepare(model)
    before = bits(model)
    with pytest.raises(NumericsError) as caught:
        made.edit(model, FACTS[:1] if editor in SINGLE else FACTS[:2])
    assert same_bits(model, before)
    return str(caught.value)


@LOCATES
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_target_that_is_no_number_names_its_fact_and_changes_nothing(editor, bad):
    named = FACTS[0 if editor in SINGLE else 1].id
    assert re.search(rf"fact {named}, norm (nan|inf); nothing was changed", spoilt(editor, bad, None))


@LOCATES
def test_an_update_that_is_no_number_names_the_matrix_a_fact_and_the_norm(editor):
    message = spoilt(editor, float("nan"), 1)
    assert re.search(
        r"mlp_down\.01 is not finite .* fact (middle|start), norm \d.*nothing was changed", message
    )


@pytest.mark.parametrize("editor", ["memit", "pmet", "alphaedit"])
def test_an_update_that_overflows_the_next_layer_is_reported(editor):
    """The message names the matrix, a fact and its norm."""
    assert re.search(r"mlp_down\.01 .* fact (middle|start), norm \d", spoilt(editor, 1e300, 0))


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_edits_are_close_to_those_of_float32(editor, dtype):
    """They differ only by the precision of the forward pass."""
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


@EACH
def test_an_editor_says_what_to_try_if_its_edits_do_not_take(editor):
    """A remedy for every cause that its diagnostics tell apart; each setting is one of its own, as it is."""
    model = tiny_model()
    made = EDITORS[editor](model)
    made.prepare(model)
    aims = "target_correct" in made.edit(model, FACTS[:1]).details
    assert set(made.remedies) == ({"target", "insertion"} if aims else {"edit"})
    advice = " ".join(made.remedies.values())
    settings = re.findall(r"editor\.([\w.]+) \(([^)]+)\)", advice)
    assert len(settings) == advice.count("editor.") > 0
    assert all(f"{attrgetter(name)(made):g}" == value for name, value in settings)
    assert all(name in advice for name in getattr(made, "regularizers", ()))
