"""The interval of a share over clustered trials: coverage, width and pairing, on simulated documents."""

import numpy as np
import pytest

from analysis.statistics.intervals import cluster_bootstrap

TRIALS = 16
"""Trials of each cluster: eight tokens of two layers."""


def hits(rng: np.random.Generator, clusters: int, spread: float, share: float = 0.9) -> np.ndarray:
    """Right answers of each cluster, whose own share varies with this standard deviation about `share`."""
    concentration = share * (1 - share) / spread**2 - 1
    shares = rng.beta(share * concentration, (1 - share) * concentration, size=clusters)
    return rng.binomial(TRIALS, shares)[:, None].astype(float)


def widths(low: np.ndarray, high: np.ndarray) -> float:
    return float((high - low)[0])


@pytest.mark.parametrize("clusters", [12, 60])
@pytest.mark.parametrize("spread", [0.01, 0.1])
def test_nineteen_of_twenty_intervals_hold_the_true_share(clusters: int, spread: float):
    rng, sizes, runs = np.random.default_rng(0), np.full(clusters, TRIALS), 1000
    covered = 0
    for run in range(runs):
        low, high = cluster_bootstrap(hits(rng, clusters, spread), sizes, samples=500, seed=run)
        covered += bool(low[0] <= 0.9 <= high[0])
    assert covered / runs == pytest.approx(0.95, abs=0.035)


def test_the_width_is_that_of_the_trials_if_they_are_independent_and_of_the_clusters_if_not():
    """Wilson's interval with clusters as trials is four times too wide in the first case."""
    rng, clusters = np.random.default_rng(1), 60
    sizes = np.full(clusters, TRIALS)
    independent = [widths(*cluster_bootstrap(hits(rng, clusters, 0.01), sizes)) for _ in range(50)]
    whole = TRIALS * rng.binomial(1, 0.9, size=(50, clusters, 1)).astype(float)
    dependent = [widths(*cluster_bootstrap(sums, sizes)) for sums in whole]

    def normal(trials: int) -> float:
        return 2 * 1.96 * (0.9 * 0.1 / trials) ** 0.5

    assert np.mean(independent) == pytest.approx(normal(clusters * TRIALS), rel=0.1)
    assert np.mean(dependent) == pytest.approx(normal(clusters), rel=0.1)


def test_a_paired_difference_has_a_narrower_interval_than_either_share():
    """Every cluster has lost one answer in both models, and half of the clusters a second one."""
    rng, clusters = np.random.default_rng(2), 60
    before = np.clip(hits(rng, clusters, 0.15), 3, None)
    after = before - 1 - (np.arange(clusters) % 2)[:, None]
    sums = np.concatenate([before, after, after - before], axis=1)
    low, high = cluster_bootstrap(sums, np.full(clusters, TRIALS))
    first, second, difference = high - low
    assert difference < 0.5 * min(first, second)
    assert low[2] < -1.5 / TRIALS < high[2] < 0


def test_clusters_weigh_by_their_size():
    sums, sizes = np.array([[10.0], [0.0]]), np.array([10, 90])
    low, high = cluster_bootstrap(sums, sizes)
    assert (low[0], high[0]) == (0, 1)
    sums = np.tile([[9.0], [80.0]], (200, 1))
    low, high = cluster_bootstrap(sums, np.tile([10, 100], 200))
    assert low[0] < 89 / 110 < high[0] < 0.85


def test_alike_clusters_have_no_width_and_a_single_one_no_interval():
    low, high = cluster_bootstrap(np.full((5, 1), 8.0), np.full(5, 16))
    assert low.tolist() == high.tolist() == [0.5]
    assert all(np.isnan(end).all() for end in cluster_bootstrap(np.ones((1, 3)), np.array([2])))


def test_a_seed_gives_the_same_interval():
    sums, sizes = hits(np.random.default_rng(3), 20, 0.1), np.full(20, TRIALS)
    assert cluster_bootstrap(sums, sizes, seed=4) == cluster_bootstrap(sums, sizes, seed=4)
    assert cluster_bootstrap(sums, sizes, seed=4) != cluster_bootstrap(sums, sizes, seed=5)
