"""MOSE rotates: nothing about a matrix changes but the directions of its inputs."""

import pytest
import torch

from editors.errors import ConfigError
from editors.methods.mose import OrthogonalEditing, cayley
from tests.editors.cases import make_mose, perform
from tests.tiny import FACTS, FAMILIES, tiny_model


def mose(**changes: object) -> OrthogonalEditing:
    given = {"name": "mose", "layers": [1, 2], "steps": 8, "bound": 1.0, "learning_rate": 0.01}
    return OrthogonalEditing(**(given | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_keeps_norm_and_singular_values_and_lowers_the_loss(family):
    model, made = tiny_model(family), mose()
    made.prepare(model)
    before = {site: model.current(site).clone() for site in made.sites}
    for fact in FACTS:
        edit = made.edit(model, [fact])
        assert edit.diagnostics["loss_end"] < edit.diagnostics["loss_start"]
        model.apply(edit.update)
        made.commit(model, [fact], edit)
    for site, weight in before.items():
        now = model.current(site)
        assert (now - weight).norm() > 0.01 * weight.norm()
        assert float(now.norm()) == pytest.approx(float(weight.norm()), rel=1e-12)
        torch.testing.assert_close(torch.linalg.svdvals(now), torch.linalg.svdvals(weight))
        torch.testing.assert_close(now @ now.T, weight @ weight.T)


def test_cayley_is_orthogonal_and_starts_at_the_identity():
    skew = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = cayley(skew)
    identity = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), identity)
    assert torch.equal(cayley(torch.zeros_like(skew)), identity)


@pytest.mark.parametrize("bound", [1e-4, 1e-3])
def test_all_edits_together_stay_within_the_bound(bound):
    model, made = tiny_model(), mose(bound=bound, learning_rate=0.1)
    made.prepare(model)
    perform(model, made, FACTS, FACTS)
    for skew in made._skew.values():
        norms = skew.norm(dim=(1, 2))
        assert norms.max() == pytest.approx(bound * skew.shape[1] ** 2 / 2, rel=1e-9)


def test_only_an_applied_edit_is_remembered():
    model, made = tiny_model(), make_mose(tiny_model())
    made.prepare(model)
    one, again = (made.edit(model, FACTS[:1]).update for _ in range(2))
    assert all(torch.equal(one[site].dense(), again[site].dense()) for site in one)


def test_blocks_that_do_not_divide_the_inputs_are_refused():
    with pytest.raises(ConfigError, match=r"editor\.blocks=7 does not divide the 128 inputs of mlp_down\.01"):
        mose(blocks=7).prepare(tiny_model())
