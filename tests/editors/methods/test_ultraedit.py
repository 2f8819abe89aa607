"""UltraEdit is the ridge regression of its equations, and its statistics are those of all it has seen."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.methods.ultraedit import EPSILON, UltraEdit, _solve
from editors.models.gradients import TokenGradients
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.moments.running import RunningStatistics
from editors.updates import Site
from tests.tiny import FACTS, tiny_model

MATRICES = {"mlp_up": [1, 2], "mlp_down": [2, 3]}


def ultraedit(**changes: object) -> UltraEdit:
    given = {"name": "ultraedit", "layers": [1, 2, 3], "matrices": MATRICES, "learning_rate": 0.01}
    return UltraEdit(**(given | changes))


def plain_features(model: Model, facts: Sequence[Fact], site: Site) -> tuple[Tensor, Tensor]:
    """Keys and gradients at every token, one fact at a time through the whole model."""
    module = model.module(site.name, site.layer)
    keys, gradients = [], []
    for fact in facts:
        placed = tokenize_prompt(model.tokenizer, fact, target=fact.target_new)
        embedded = model.hf.get_input_embeddings()(torch.tensor([placed.ids])).requires_grad_()
        with torch.enable_grad(), capture(inputs={"h": module}) as read, capture(outputs={"o": module}) as o:
            said = model.hf(inputs_embeds=embedded).logits[0].log_softmax(dim=-1)
        first = len(placed.ids) - len(placed.target_ids)
        loss = -sum(said[first + i - 1, token] for i, token in enumerate(placed.target_ids))
        keys.append(read["h"][0].detach())
        gradients.append(torch.autograd.grad(loss, o["o"])[0][0])
    return torch.cat(keys), torch.cat(gradients)


def plain_ultraedit(keys: Tensor, gradients: Tensor, seen: Tensor, learning_rate: float) -> Tensor:
    """The equations as written, with the (in, in) system."""
    both = (torch.cat([keys, gradients], dim=1) - seen.mean(dim=0)) / (seen.std(dim=0) + EPSILON)
    key, gradient = both.split([keys.shape[1], gradients.shape[1]], dim=1)
    values = -learning_rate * key.square().sum(dim=1, keepdim=True) * gradient
    system = keys.T @ keys + torch.eye(keys.shape[1], dtype=keys.dtype)
    return torch.linalg.solve(system, keys.T @ values).T


@pytest.mark.parametrize("family", ["gpt2", "gptj", "neox", "llama"])
def test_two_edits_are_those_of_the_plain_equations(family):
    model, editor = tiny_model(family), ultraedit()
    editor.prepare(model)
    seen: dict[int, list[Tensor]] = {}
    for facts in (FACTS[:2], FACTS[2:]):
        features = {site: plain_features(model, facts, site) for site in editor.sites}
        for keys, gradients in features.values():
            seen.setdefault(keys.shape[1], []).append(torch.cat([keys, gradients], dim=1))
        edit = editor.edit(model, facts)
        for site, (keys, gradients) in features.items():
            expected = plain_ultraedit(keys, gradients, torch.cat(seen[keys.shape[1]]), 0.01)
            torch.testing.assert_close(edit.update[site].dense(), expected)
        model.apply(edit.update)
        editor.commit(model, facts, edit)


@pytest.mark.parametrize("tokens", [5, 12, 40])
def test_fewer_tokens_or_fewer_inputs_give_the_same_update(tokens):
    generator = torch.Generator().manual_seed(0)
    keys, gradients = torch.randn(2, tokens, 12, generator=generator, dtype=torch.float64)
    rows = torch.cat([keys, gradients], dim=1)
    delta = _solve(TokenGradients(keys, gradients), RunningStatistics.of(rows), 0.1)
    assert (delta.right is None) == (tokens > 12)
    torch.testing.assert_close(delta.dense(), plain_ultraedit(keys, gradients, rows, 0.1))


def test_statistics_of_parts_are_those_of_the_whole():
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 100
    parts = [RunningStatistics.of(part) for part in rows.split([1, 12, 17])]
    whole = parts[0].merged(parts[1]).merged(parts[2])
    assert whole.count == 30
    torch.testing.assert_close(whole.mean, rows.mean(dim=0))
    torch.testing.assert_close(whole.square / 29, rows.var(dim=0))
    assert whole.standardised(rows, EPSILON).std(dim=0).allclose(torch.ones(4, dtype=torch.float64))


def test_whitened_coordinates_have_the_identity_as_covariance():
    """And the others are standardised; until there are enough rows, all are."""
    mixed = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ mixed + 5
    parts = [RunningStatistics.of(part, 4) for part in rows.split([5, 15, 40])]
    whole = parts[0].merged(parts[1]).merged(parts[2])
    white = whole.whitened(rows, EPSILON)
    torch.testing.assert_close(white[:, 2:].T @ white[:, 2:] / (60 - 4 - 1), torch.eye(4).double())
    assert torch.equal(white[:, :2], whole.standardised(rows, EPSILON)[:, :2])
    few = parts[0].whitened(rows, EPSILON)
    assert torch.equal(few, parts[0].standardised(rows, EPSILON))


def test_whitening_does_not_depend_on_the_units_of_gradients():
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = torch.cat([rows[:, :2], rows[:, 2:] * 1e3], dim=1)
    white = [RunningStatistics.of(each, 4).whitened(each, EPSILON) for each in (rows, scaled)]
    torch.testing.assert_close(white[0], white[1])


def test_stableedit_reads_the_tokens_that_predict():
    model, editor = tiny_model(), ultraedit(predicting=True, whitening=True)
    edit = editor.edit(model, FACTS)
    targets = [tokenize_prompt(model.tokenizer, fact, target=fact.target_new).target_ids for fact in FACTS]
    assert edit.diagnostics["tokens"] == sum(map(len, targets))


def test_the_covariance_is_kept_between_edits():
    model, editor, other = tiny_model(), ultraedit(whitening=True), ultraedit(whitening=True)
    editor.commit(model, FACTS[:1], editor.edit(model, FACTS[:1]))
    state = editor.state_dict()
    assert state["128x32.products"].shape == (32, 32) and state["32x128.products"].shape == (128, 128)
    other.load_state_dict(state)
    one, two = (each.edit(model, FACTS[1:]).update for each in (editor, other))
    assert all(torch.equal(one[site].dense(), two[site].dense()) for site in one)


def test_a_larger_ridge_gives_a_smaller_update():
    model = tiny_model()
    sizes = [
        sum(delta.square() for delta in ultraedit(ridge=ridge).edit(model, FACTS).update.values())
        for ridge in (0.1, 1.0, 10.0)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.9 * sizes[0]


def test_one_token_alone_has_no_deviation_and_asks_for_no_change():
    keys = torch.ones(1, 3, dtype=torch.float64)
    statistics = RunningStatistics.of(torch.cat([keys, keys], dim=1))
    assert _solve(TokenGradients(keys, keys), statistics, 1.0).dense().norm() == 0


def test_only_a_committed_edit_changes_the_statistics():
    """A restored state is exact."""
    model, editor, other = tiny_model(), ultraedit(), ultraedit()
    first = editor.edit(model, FACTS[:1])
    assert set(editor.state_dict()) == {"edits"}
    editor.commit(model, FACTS[:1], first)
    state = editor.state_dict()
    parts = {f"{g}.{p}" for g in ("32x128", "128x32") for p in ("count", "mean", "square")}
    assert set(state) == {"edits"} | parts
    other.load_state_dict({key: value.clone() for key, value in state.items()})
    one, two = (each.edit(model, FACTS[1:]).update for each in (editor, other))
    assert all(torch.equal(one[site].dense(), two[site].dense()) for site in one)
    assert all(torch.equal(state[key], value) for key, value in other.state_dict().items())


def test_it_stays_thin_and_its_memory_does_not_grow():
    model, editor = tiny_model(), ultraedit()
    sizes = set()
    for fact in FACTS:
        edit = editor.edit(model, [fact])
        assert all(
            delta.right is not None and delta.right.shape[1] == edit.diagnostics["tokens"]
            for site, delta in edit.update.items()
            if site.name == "mlp_down"
        )
        editor.commit(model, [fact], edit)
        sizes.add(sum(value.numel() for value in editor.state_dict().values()))
    assert len(sizes) == 1


def test_layers_narrow_the_matrices():
    assert ultraedit().sites == [
        Site("mlp_up", 1),
        Site("mlp_up", 2),
        Site("mlp_down", 2),
        Site("mlp_down", 3),
    ]
    assert ultraedit(layers=[3]).sites == [Site("mlp_down", 3)]
    with pytest.raises(ConfigError, match=r"layers\.edit=\[0\] holds no block of editor\.matrices"):
        ultraedit(layers=[0])
    with pytest.raises(ConfigError, match=r"editor\.learning_rate=0"):
        ultraedit(learning_rate=0.0)


def test_statistics_of_another_model_are_refused():
    model, editor = tiny_model(), ultraedit()
    editor.commit(model, FACTS, editor.edit(model, FACTS))
    with pytest.raises(ConfigError, match="statistics of a model with other matrix shapes than tiny-llama"):
        editor.prepare(tiny_model("llama"))


def test_a_loss_without_a_value_is_refused_with_the_fact():
    model, site = tiny_model(), Site("mlp_down", 3)
    model.write(site, model.weight(*site) * float("inf"))
    with pytest.raises(NumericsError, match="loss of fact middle"):
        ultraedit().edit(model, FACTS)
