"""Change-points lie at the beginning of the fall, and their intervals narrow with the noise."""

import numpy as np
import pytest

from analysis.statistics.change_point import change_point

RATIOS = np.geomspace(1, 30, 40)


def falling(at: float, floor_at: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    fallen = np.clip(np.log(RATIOS / at), 0, np.log(floor_at / at))
    drawn = np.random.default_rng(seed).normal(scale=noise, size=len(RATIOS))
    return 0.9 - 0.5 * fallen / np.log(floor_at / at) + drawn


@pytest.mark.parametrize("at", [1.5, 3.0, 8.0])
def test_the_break_is_where_the_fall_begins(at: float):
    found = change_point([RATIOS], [falling(at, 3 * at)])
    assert found is not None
    assert found.at == pytest.approx(at, rel=0.2)
    assert found.low <= found.at <= found.high
    assert (found.level, found.floor) == (pytest.approx(0.9, abs=0.02), pytest.approx(0.4, abs=0.04))
    assert found.explained > 0.98


def test_more_noise_makes_a_wider_interval():
    clean, noisy = (
        change_point([RATIOS] * 3, [falling(3, 10, noise, seed) for seed in range(3)])
        for noise in (0.005, 0.1)
    )
    assert clean is not None and noisy is not None
    assert clean.high / clean.low < noisy.high / noisy.low
    assert clean.low <= 3.3 and clean.high >= 2.7


def test_nothing_that_is_level_or_rises_breaks():
    assert change_point([RATIOS], [np.full(40, 0.5)]) is None
    assert change_point([RATIOS], [2 - falling(3, 10)]) is None
    assert change_point([np.ones(40)], [falling(3, 10)]) is None
    assert change_point([RATIOS[:4]], [falling(3, 10)[:4]]) is None


def test_noise_about_a_level_is_no_break():
    drawn = np.random.default_rng(0).normal(scale=0.003, size=(200, len(RATIOS)))
    found = [change_point([RATIOS], [0.9 + each], samples=1) for each in drawn]
    assert sum(each is not None for each in found) == 0
    wild = [change_point([RATIOS], [0.9 + 20 * each], samples=1) for each in drawn]
    assert sum(each is not None for each in wild) < 40


def test_a_run_that_does_not_fall_reaches_into_the_interval():
    values = [falling(8, 20), falling(8, 20), np.full(40, 0.9)]
    found = change_point([RATIOS] * 3, values)
    assert found is not None and found.high == np.inf


def test_the_interval_reaches_to_the_measurements_about_the_break():
    values = np.where(RATIOS < 3, 0.9, 0.4)
    before, after = RATIOS[RATIOS < 3][-1], RATIOS[RATIOS >= 3][0]
    found = change_point([RATIOS] * 3, [values] * 3)
    assert found is not None
    assert found.at == pytest.approx(before) and found.low < before < found.high < after


def test_values_that_are_not_finite_are_left_out():
    """The seed determines the interval."""
    values = falling(3, 10, 0.05)
    values[[3, 9]] = np.nan
    first, again = (change_point([RATIOS], [values], seed=1) for _ in range(2))
    assert first == again
    assert first is not None and np.isfinite([first.at, first.low, first.high]).all()
