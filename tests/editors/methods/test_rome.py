"""ROME and its key modes against the published formulas."""

import pytest
import torch

from editors.locate.contexts import GivenContexts
from editors.updates import Site
from tests import plain
from tests.editors.cases import LOCATING, make_emmet, make_rome
from tests.tiny import FACTS, FAMILIES, TEMPLATES, moments, optimizer, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)
AVERAGED = {
    "rome": "direction",
    "r_rome": "direction value denominator",
    "p_rome": "",
    "pr44": "direction denominator",
}
"""Where the mean over the templates stands instead of the bare prompt."""
ONE_GROUP = (("{}", "The river. {}", "Because I live. {}"),)
"""ROME weighs all templates alike."""


@EVERY
@pytest.mark.parametrize("mode", AVERAGED)
def test_every_key_mode_is_its_published_formula(family, mode):
    model = tiny_model(family)
    for groups in (TEMPLATES, ONE_GROUP) if family == "gpt2" else (ONE_GROUP,):
        made = LOCATING[mode](model, contexts=GivenContexts(templates=groups))
        made.prepare(model)
        found = made.edit(model, FACTS[:1]).update[Site("mlp_down", 1)].dense()
        moment, settings = moments(model).matrices[1], optimizer(reference="mlp")
        expected = plain.rome(model, FACTS[0], groups, 1, moment, settings, AVERAGED[mode])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_without_second_moments_the_direction_is_the_key_itself():
    model = tiny_model()
    made = make_rome(model, second_moment=False)
    made.prepare(model)
    delta = made.edit(model, FACTS[:1]).update[Site("mlp_down", 1)].dense()
    key = plain.key(model, FACTS[0], TEMPLATES, 1)
    torch.testing.assert_close(
        delta / delta.norm(), torch.outer(delta @ key, key) / (delta @ key).norm() / key.norm()
    )


def test_emmet_without_a_ridge_and_with_one_fact_is_r_romes_equation():
    model = tiny_model()
    one = make_rome(model, key_mode="r_rome")
    # r-ROME on the target of the block's output: averaged key everywhere, but the bare output as value
    other = make_emmet(model, ridge=0.0, targets=optimizer(reference="mlp"))
    for made in (one, other):
        made.prepare(model)
    keys = plain.key(model, FACTS[0], TEMPLATES, 1)
    found = other.edit(model, FACTS[:1]).update[Site("mlp_down", 1)].dense().double()
    expected = one.edit(model, FACTS[:1]).update[Site("mlp_down", 1)].dense().double()
    for delta in (found, expected):
        torch.testing.assert_close(
            delta, torch.outer(delta @ keys, _direction(model, keys)), rtol=1e-4, atol=1e-6
        )


def _direction(model, key: torch.Tensor) -> torch.Tensor:
    """C⁻¹k / (k·C⁻¹k)."""
    solved = torch.linalg.solve(moments(model).matrices[1], key)
    return solved / (key @ solved)
