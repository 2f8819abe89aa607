"""Intervals of scores, against values computed by hand and by simulation."""

import numpy as np
import pytest

from analysis.stages.downstream.chance import compare_accuracy, compare_area, roc_area


def test_the_interval_of_an_accuracy_is_wilson_s():
    interval = compare_accuracy("acc", 0.4, 60, 0.25)
    # 24 of 60: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)
    assert (interval.low, interval.high) == (pytest.approx(0.2857, abs=1e-4), pytest.approx(0.5263, abs=1e-4))
    assert interval.is_above and not compare_accuracy("acc", 0.4, 60, 0.3).is_above


def test_one_exact_word_is_above_chance_and_none_is_not():
    assert compare_accuracy("acc", 1 / 300, 300, 0.0).is_above
    assert not compare_accuracy("acc", 0.0, 300, 0.0).is_above


def test_an_area_is_the_share_of_pairs_in_the_right_order():
    area = roc_area([(0, -1.0), (0, 2.0), (1, 1.0), (1, 3.0)])
    assert area["auc"] == pytest.approx(3 / 4)
    assert roc_area([(1, 1.0), (1, 2.0)]) == {}


def test_the_error_of_an_area_is_that_of_repeated_samples():
    rng = np.random.default_rng(0)
    classes = [0] * 60 + [1] * 40
    areas, errors = [], []
    for _ in range(400):
        scores = rng.exponential(size=100) * np.where(np.array(classes) == 1, 3.0, 1.0)
        area = roc_area(list(zip(classes, scores.tolist(), strict=True)))
        areas.append(area["auc"])
        errors.append(area["auc_stderr"])
    # Hanley and McNeil's formula is exact for exponential scores
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_a_score_that_is_no_number_is_a_wrong_one():
    right = [(0, -1.0), (1, 1.0), (1, 2.0)]
    assert roc_area(right)["auc"] == 1
    assert roc_area([*right, (1, float("nan"))])["auc"] == pytest.approx(2 / 3)


def test_an_area_within_its_error_of_one_half_is_at_chance():
    assert compare_area(0.62, 0.05).is_above and not compare_area(0.59, 0.05).is_above
