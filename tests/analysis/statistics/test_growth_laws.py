"""Growth laws are recognised, and their rates found, from the curves that they describe."""

import numpy as np
import pytest

from analysis.statistics.growth_laws import LAWS, fit_growth_laws

N = np.arange(0, 201)


def curve(law: str, rate: float) -> np.ndarray:
    return np.exp(LAWS[law](rate * N))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.05])
def test_each_law_is_recognised_with_its_rate(law: str, rate: float):
    best = fit_growth_laws(N, curve(law, rate)).iloc[0]
    assert best["rate"] == pytest.approx(rate, rel=1e-3)
    assert best["error"] < 1e-8 and best["explained"] == pytest.approx(1, abs=1e-5)
    # at a tiny rate all laws are the same straight line
    assert best["law"] == law or rate == 1e-4


def test_the_laws_are_what_their_equations_say():
    assert curve("linear", 0.1)[30] == pytest.approx(4)
    assert curve("square root", 0.1)[30] == pytest.approx(2)
    assert curve("exponential", 0.1)[30] == pytest.approx(np.exp(3))


def test_a_noisy_exponential_is_still_one():
    noise = np.random.default_rng(0).normal(scale=0.02, size=len(N))
    assert fit_growth_laws(N, curve("exponential", 0.02) * np.exp(noise))["law"].iloc[0] == "exponential"


def test_the_start_and_what_is_not_finite_do_not_count():
    broken = curve("linear", 0.02)
    broken[[0, 5, 6]] = [7.0, np.nan, np.inf]
    assert fit_growth_laws(N, broken).iloc[0]["rate"] == pytest.approx(0.02, rel=1e-3)


def test_too_few_points_have_no_law():
    assert fit_growth_laws(N[:3], curve("linear", 0.1)[:3]).empty


def test_a_shrinking_norm_has_a_rate_near_zero():
    assert fit_growth_laws(N, 1 / curve("linear", 0.01))["rate"].max() < 1e-6
