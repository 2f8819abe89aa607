"""Holm's correction."""

import numpy as np
import pytest

from analysis.statistics.holm import holm


def test_the_smallest_p_counts_as_often_as_there_are_tests():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_tests_without_p_are_left_out():
    adjusted = holm(np.array([np.nan, 0.02, np.nan, 0.01]))
    assert adjusted[[1, 3]] == pytest.approx([0.02, 0.02]) and np.isnan(adjusted[[0, 2]]).all()
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_a_family_of_true_hypotheses_is_rejected_in_one_of_twenty():
    rng = np.random.default_rng(0)
    rejected = np.mean([(holm(rng.uniform(size=12)) < 0.05).any() for _ in range(2000)])
    assert 0.035 < rejected < 0.065
