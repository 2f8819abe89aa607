"""Paired intervals over seeds and items."""

import numpy as np
import pytest

from analysis.statistics import hierarchical
from analysis.statistics.hierarchical import paired_bootstrap


def test_the_mean_is_that_of_the_seeds_and_the_interval_holds_it():
    rng = np.random.default_rng(0)
    changes = [rng.normal(size=200) + shift for shift in (0.0, 1.0, 2.0)]
    mean, low, high = paired_bootstrap(changes)
    assert mean == pytest.approx(np.mean([each.mean() for each in changes]))
    assert low < mean < high


def test_a_single_seed_has_the_interval_of_its_items():
    changes = np.random.default_rng(1).normal(size=400)
    mean, low, high = paired_bootstrap([changes])
    error = changes.std(ddof=1) / 20
    assert (mean - low, high - mean) == pytest.approx((1.96 * error,) * 2, rel=0.1)


def test_seeds_that_differ_widen_the_interval():
    items = np.random.default_rng(2).normal(size=400)
    alike, apart = ([items + shift for shift in shifts] for shifts in ((0, 0, 0), (-1, 0, 1)))
    widths = [high - low for _, low, high in (paired_bootstrap(alike), paired_bootstrap(apart))]
    assert widths[1] > 5 * widths[0]


def test_heavier_items_count_more_and_one_item_has_no_interval():
    mean, low, high = paired_bootstrap([np.array([0.0, 1.0])], [np.array([1.0, 3.0])])
    assert (mean, low, high) == (0.75, 0.0, 1.0)
    assert np.isnan(paired_bootstrap([np.array([1.0])])[1:]).all()


@pytest.mark.parametrize("count", [50, 400])
def test_the_interval_covers_the_true_change(count: int, monkeypatch: pytest.MonkeyPatch):
    """Items of one seed: 95 % of intervals hold 0, within three standard errors of 200 trials."""
    monkeypatch.setattr(hierarchical, "DRAWS", 500)  # more draws move the ends of intervals hardly
    rng = np.random.default_rng(count)
    intervals = [paired_bootstrap([rng.normal(size=count)], seed=trial)[1:] for trial in range(200)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.99
