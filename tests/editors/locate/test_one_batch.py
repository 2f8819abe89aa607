"""The distance of a sequence of edits from one batch of its facts."""

import pytest
import torch

from editors.errors import ConfigError
from editors.locate.located_edit import LocatedEdit
from editors.regularizers.history import History
from editors.regularizers.rect import Rect
from tests.editors.cases import make_alphaedit, make_betaedit, make_emmet, make_memit, make_rome, perform
from tests.tiny import FACTS, moments, tiny_model

BATCHES = (FACTS[:1], FACTS[1:2], FACTS[2:])


def distances(editor, model) -> list[float]:
    """The distance after every batch."""
    editor.prepare(model)
    found = []
    for facts in BATCHES:
        edit = editor.edit(model, facts)
        model.apply(edit.update)
        editor.commit(model, facts, edit)
        found.append(edit.diagnostics["one_batch_distance"])
    return found


def remembering(keys: str = "before", **more) -> dict:
    return {"history": History(keys=keys)} | more


@pytest.mark.parametrize("layers", [[1], [0, 1]])
def test_least_squares_that_remember_all_keys_are_one_batch(layers):
    model = tiny_model()
    made = make_memit(model, layers=layers, regularizers=remembering(), certify=True)
    assert max(distances(made, model)) < 1e-5


def test_what_is_taken_from_an_update_leads_away_and_compensation_back():
    plain, compensated = (
        distances(
            make_memit(
                tiny_model(),
                layers=[1],
                regularizers=remembering(rect=Rect(keep=0.3)),
                certify=True,
                compensate=compensate,
            ),
            tiny_model(),
        )
        for compensate in (False, True)
    )
    assert min(plain) > 0.1 and plain[0] == compensated[0]
    assert compensated[-1] < plain[-1]


@pytest.mark.parametrize("keys", ["before", "after"])
def test_it_is_the_distance_of_the_equations_written_out(keys):
    """With V and K of every batch, and D* solved anew; keys measured again differ because RECT cuts."""
    model, layers = tiny_model(), [0, 1]
    rules = remembering(keys, rect=Rect(keep=0.3))
    made = make_memit(model, layers=layers, regularizers=rules, certify=True)
    made.prepare(model)
    start = {layer: model.weight("mlp_down", layer).clone().double() for layer in layers}
    pairs: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {layer: [] for layer in layers}
    for facts in BATCHES:
        before = {layer: model.weight("mlp_down", layer).clone().double() for layer in layers}
        edit = made.edit(model, facts)
        assert isinstance(edit, LocatedEdit)
        model.apply(edit.update)
        made.commit(model, facts, edit)
        apart = whole = 0.0
        for layer in layers:
            key = edit.memory[layer].double()
            values = before[layer] @ key + edit.residuals[layer]
            every = [*pairs[layer], (key, values)]
            known = 0.5 * moments(model).matrices[layer].double() + sum(k @ k.T for k, _ in every)
            best = sum((v - start[layer] @ k) @ k.T for k, v in every) @ torch.linalg.inv(known)
            drift = model.weight("mlp_down", layer).double() - start[layer]
            apart += float((drift - best).square().sum())
            whole += float(best.square().sum())
            pairs[layer].append((made._keys[layer][-1].double(), values))
        expected = (apart / whole) ** 0.5
        assert edit.diagnostics["one_batch_distance"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.05


def test_an_editor_in_a_null_space_has_a_distance_and_the_same_updates():
    updates = []
    for certify in (False, True):
        model = tiny_model()
        made = make_alphaedit(model, certify=certify)
        if certify:
            found = distances(made, model)
            assert found[0] < 1e-5 and all(0 <= value < 1 for value in found)
        else:
            made.prepare(model)
            perform(model, made, *BATCHES)
        updates.append(model.weight("mlp_down", made.layers[0]).clone())
    assert torch.equal(*updates)


def test_a_restored_editor_goes_on_from_the_same_distance():
    model = tiny_model()
    made, twin = (
        make_memit(model, regularizers=remembering("after", rect=Rect()), certify=True) for _ in range(2)
    )
    for each in (made, twin):
        each.prepare(model)
    for since, batch in enumerate(BATCHES[:2]):  # a piece for every batch, which holds that batch alone
        perform(model, made, batch)
        piece = {key: value.clone() for key, value in made.state_dict(since).items()}
        assert piece["one_batch.1"].shape[1] == 1
        twin.load_state_dict(piece)
    assert made.edit(model, BATCHES[2]).diagnostics == twin.edit(model, BATCHES[2]).diagnostics


def test_editors_with_other_equations_or_without_a_memory_are_refused():
    model = tiny_model()
    with pytest.raises(ConfigError, match=r"editor\.certify .* needs the regularizer history;"):
        make_memit(model, certify=True)
    for make in (make_rome, make_emmet, make_betaedit):
        with pytest.raises(ConfigError, match=r"of all facts, but \w+ solves other .* use memit"):
            make(model, certify=True)
