"""The drift that few tokens hide: what is known of Gaussian keys."""

import pytest
import torch

from tests.benchmarks.held_out_keys import sizes


@pytest.mark.parametrize(("count", "factor"), [(100, 2.0), (200, 4 / 3), (1000, 20 / 19)])
def test_a_moment_of_few_gaussian_keys_understates_a_drift_as_theory_says(count: int, factor: float):
    generator = torch.Generator().manual_seed(0)
    width, ratios = 50, []
    for _ in range(20):
        keys = torch.randn(count, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(8, width, generator=generator)
        found = sizes(weight, keys.T @ keys / count, torch.eye(width))
        ratios.append(found.held_out / found.seen)
    assert sum(ratios) / len(ratios) == pytest.approx(factor, rel=0.1)


def test_a_drift_has_half_the_norm_of_the_weights_and_the_size_of_its_output():
    weight = torch.eye(3)
    found = sizes(weight, torch.eye(3), torch.diag(torch.tensor([4.0, 4.0, 4.0])))
    assert found.seen == found.held_out == pytest.approx(0.5)
