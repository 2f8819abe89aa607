"""Rank correlation and the share that a rising curve explains."""

import math

import numpy as np
import pytest

from analysis.statistics.monotone import explained_share, rank_correlation

X = np.arange(1.0, 9.0)


@pytest.mark.parametrize("curve", [np.log, np.exp, lambda x: x**3])
def test_any_rising_curve_is_explained_whole_and_a_falling_one_not_at_all(curve):
    assert rank_correlation(X, curve(X)) == pytest.approx(1)
    assert explained_share(X, curve(X)) == pytest.approx(1)
    assert rank_correlation(X, -curve(X)) == pytest.approx(-1)
    assert explained_share(X, -curve(X)) == pytest.approx(0)


def test_noise_is_explained_little_and_a_curve_with_noise_in_part():
    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=400), generator.normal(size=400)
    assert abs(rank_correlation(x, noise)) < 0.15 and explained_share(x, noise) < 0.1
    assert 0.3 < explained_share(x, x + noise) < 0.7


def test_pairs_with_an_infinity_are_left_out_and_too_few_tell_nothing():
    y = np.where(X == 3, math.inf, X)
    assert rank_correlation(X, y) == pytest.approx(1) and explained_share(X, y) == pytest.approx(1)
    for x, z in ((X[:2], X[:2]), (X, np.ones(8)), (np.ones(8), X)):
        assert math.isnan(rank_correlation(x, z)) and math.isnan(explained_share(x, z))
