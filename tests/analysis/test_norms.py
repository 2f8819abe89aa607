"""Norms against numpy, ratios of a model that was not touched, the split of growth."""

import numpy as np
import pytest
import torch

from analysis.norms import Growth, Norms
from analysis.stage import Cadence, Observation, Reference
from editors.errors import ConfigError
from editors.model.deltas import Delta, Site
from tests.tiny import FAMILIES, tiny_model

SITE = Site("mlp_down", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_numpy_for_every_site_of_every_block(family: str):
    model = tiny_model(family)
    found = Norms().measure(model, Observation(edits=0, total=1, reference=Reference(model)))
    for layer in range(model.depth):
        for site in model.sites:
            expected = np.linalg.norm(model.weight(site, layer).numpy())
            assert found[f"norm/frobenius/{site}.{layer:02d}"] == pytest.approx(expected)
            assert found[f"norm/frobenius_ratio/{site}.{layer:02d}"] == 1
            assert found[f"norm/distance/{site}.{layer:02d}"] == 0


def test_doubling_a_matrix_doubles_its_ratio_and_leaves_the_others_at_one():
    model = tiny_model()
    reference = Reference(model)
    model.write(SITE, 2 * model.weight(*SITE))
    found = Norms().measure(model, Observation(edits=1, total=1, reference=reference, edited=[SITE]))
    assert found[f"norm/frobenius_ratio/{SITE}"] == pytest.approx(2)
    assert found[f"norm/distance/{SITE}"] == pytest.approx(1)
    assert found["norm/frobenius_ratio/edited"] == pytest.approx(2)
    assert found["norm/frobenius_ratio/static"] == pytest.approx(1)


def test_growth_terms_are_the_growth_and_a_change_that_turns_the_matrix_only_has_opposite_terms():
    model = tiny_model()
    before = model.weight(*SITE).clone()
    rotation, _ = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))
    delta = Delta(left=rotation @ before - before)
    model.apply({SITE: delta})
    found = Growth().measure(model, Observation(edits=1, total=1, update={SITE: delta}))
    cross, square = found[f"norm/growth_cross/{SITE}"], found[f"norm/growth_square/{SITE}"]
    assert found[f"norm/delta/{SITE}"] == pytest.approx(float(delta.dense().norm()))
    assert cross == pytest.approx(2 * float((before * delta.dense()).sum()))
    assert cross + square == pytest.approx(0, abs=1e-9 * square)


@pytest.mark.parametrize(
    ("cadence", "moments"),
    [
        (Cadence(every=3), [0, 3, 6, 9, 10]),
        (Cadence(), [0, 10]),
        (Cadence(at=(1, 5)), [0, 1, 5, 10]),
    ],
)
def test_a_cadence_always_takes_start_and_end(cadence: Cadence, moments: list[int]):
    assert [n for n in range(11) if cadence.due(max(n - 1, 0), n, 10)] == moments


def test_a_batch_that_steps_over_a_point_is_measured_at_its_end():
    assert Cadence(every=5).due(4, 8, 100)
    assert not Cadence(every=5).due(5, 8, 100)
    assert Cadence(at=(6,)).due(4, 8, 100)


def test_negative_counts_are_refused():
    with pytest.raises(ConfigError, match="cannot be negative"):
        Cadence(every=-1)
