"""What the methods are to each other, at the level of whole editors, and what they refuse."""

import pytest
import torch

from editors.errors import ConfigError
from editors.regularizers.history import History
from editors.regularizers.norm_constraint import NormConstraint
from editors.updates import Site
from tests import plain
from tests.editors.cases import make_alphaedit, make_betaedit, make_emmet, make_memit, make_pmet, perform
from tests.editors.locate.test_targets import REACHABLE
from tests.tiny import FACTS, TEMPLATES, moments, optimizer, tiny_model

SITE = Site("mlp_down", 1)


def update(made, model, facts=FACTS) -> torch.Tensor:
    """The change of SITE."""
    made.prepare(model)
    return made.edit(model, facts).update[SITE].dense().double()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_emmet_with_a_ridge_is_memit_that_preserves_so_much_less(family):
    model = tiny_model(family)
    one = update(make_emmet(model, ridge=0.3, preservation_weight=5.0), model)
    other = update(make_memit(model, layers=[1], preservation_weight=1.5), model)
    assert one.norm() > 0.1
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_emmets_ridge_is_for_batches_and_a_single_fact_is_met_exactly():
    model = tiny_model()
    ridge, exact = (make_emmet(model, ridge=value) for value in (0.3, 0.0))
    assert torch.equal(update(ridge, model, FACTS[:1]), update(exact, model, FACTS[:1]))
    assert not torch.equal(update(ridge, model), update(exact, model))


@pytest.mark.parametrize("facts", [FACTS[:1], FACTS])
def test_emmet_without_a_ridge_meets_every_value(facts):
    model = tiny_model()
    made = make_emmet(model, ridge=0.0)
    made.prepare(model)
    edit = made.edit(model, facts)
    current = torch.stack([plain.written(model, fact, (("{}",),), "block", 1) for fact in facts])
    wanted = (edit.targets - current).T
    torch.testing.assert_close(
        edit.update[SITE].dense().double() @ edit.memory[1], wanted, rtol=1e-5, atol=1e-6
    )


def test_emmet_on_one_layer_ignores_the_preservation_weight():
    model = tiny_model()
    one, other = (update(make_emmet(model, ridge=0.0, preservation_weight=w), model) for w in (1.0, 1e4))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_pmet_spreads_by_square_roots():
    """One layer takes everything; the first of two takes more than half."""
    model = tiny_model()
    assert make_pmet(model).spread(1) == 1.0 and make_memit(model).spread(2) == 0.5
    assert make_pmet(model).spread(4) == 0.5


def test_alphaedit_writes_nothing_above_its_threshold():
    """Directions with larger eigenvalues stay unchanged."""
    model = tiny_model()
    made = make_alphaedit(model)
    made.prepare(model)
    for _ in range(2):  # with and without a history
        edit = made.edit(model, FACTS)
        for site, delta in edit.update.items():
            values, vectors = torch.linalg.eigh(moments(model).matrices[site.layer])
            known = vectors[:, values >= 0.7]
            assert delta.norm() > 1e-3 and (delta.dense() @ known).abs().max() < 1e-10
        share = edit.diagnostics["null_space_share"]
        assert 0.1 < share < 0.9 and share == pytest.approx(1 - known.shape[1] / len(known), abs=0.1)
        model.apply(edit.update)
        made.commit(model, FACTS, edit)


def test_alphaedit_without_preserved_directions_is_memit():
    """That MEMIT preserves the identity."""
    model = tiny_model()
    identity = moments(model)
    for layer, moment in identity.matrices.items():
        identity.matrices[layer] = torch.eye(len(moment), dtype=torch.float64)
    free = make_alphaedit(model, layers=[1], threshold=1e6, ridge=2.0, regularizers={})
    plain_ridge = make_memit(model, layers=[1], moments=identity, preservation_weight=2.0)
    torch.testing.assert_close(update(free, model), update(plain_ridge, model), rtol=1e-5, atol=1e-7)


def test_betaedit_that_preserves_nothing_in_its_null_space_is_alphaedit():
    model = tiny_model()
    ours = make_betaedit(model, layers=[1], preservation_weight=1e-12, regularizers={})
    other = make_alphaedit(model, layers=[1], regularizers={})
    torch.testing.assert_close(update(ours, model), update(other, model), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [make_alphaedit, make_memit])
def test_the_norm_constraint_is_a_ridge_in_every_editor(make):
    model = tiny_model()
    size = [
        float(update(make(model, layers=[1], regularizers=chosen), model).norm())
        for chosen in ({}, {"norm_constraint": NormConstraint(weight=5.0)})
    ]
    assert size[1] < 0.7 * size[0]


@pytest.mark.parametrize("make", [make_alphaedit, make_memit, make_emmet, make_pmet])
def test_history_lowers_what_a_later_edit_does_to_earlier_keys(make):
    def disturbance(chosen: dict) -> float:
        model = tiny_model()
        made = make(model, layers=[1], regularizers=chosen)
        made.prepare(model)
        perform(model, made, FACTS)
        keys = torch.stack([plain.key(model, fact, TEMPLATES, 1) for fact in FACTS]).T
        return float((made.edit(model, REACHABLE[1:2]).update[SITE].dense().double() @ keys).norm())

    assert disturbance({"history": History()}) < 0.95 * disturbance({})


def test_settings_that_cannot_be_are_refused_in_a_sentence():
    model = tiny_model()
    with pytest.raises(ConfigError, match=r"editor\.ridge=-0\.1, but a ridge cannot be negative"):
        make_emmet(model, ridge=-0.1)
    for wrong in ({"ridge": 0.0}, {"threshold": -1.0}):
        with pytest.raises(ConfigError, match="have to be positive"):
            make_alphaedit(model, **wrong)
    with pytest.raises(ConfigError, match=r"lies below every eigenvalue .* layer 0 .*no direction is free"):
        make_alphaedit(model, threshold=1e-9).prepare(model)
    with pytest.raises(ConfigError, match=r"lies below every eigenvalue .* layer 0 .*no direction is free"):
        make_betaedit(model, threshold=1e-9).prepare(model)
    with pytest.raises(ConfigError, match=r"editor\.refresh=0, but it has to be positive"):
        make_betaedit(model, refresh=0)
    with pytest.raises(ConfigError, match=r"targets\.learning_rate=-1.0, but it has to be positive"):
        optimizer(learning_rate=-1.0)
