"""ROME and its key modes against the published formulas."""

import pytest
import torch

from editors.model.deltas import Site
from tests import plain
from tests.editors.cases import make_rome
from tests.tiny import FACTS, FAMILIES, TEMPLATES, moments, optimizer, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)


@EVERY
def test_rome_is_the_plain_path(family):
    model = tiny_model(family)
    made = make_rome(model)
    made.prepare(model)
    expected = plain.rome(
        model, FACTS[0], TEMPLATES, 1, moments(model).matrices[1], optimizer(reference="mlp")
    )
    torch.testing.assert_close(made.edit(model, FACTS[:1]).update[Site("mlp_down", 1)].dense(), expected)
