"""Names at the ends of lines keep their distance and stay near."""

from itertools import pairwise

import pytest

from analysis.plots.charts.hero import spread_apart


@pytest.mark.parametrize(
    ("places", "apart"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.0, 0.05, 0.1, 0.9], [-0.05, 0.05, 0.15, 0.9]),
        ([], []),
    ],
)
def test_labels_are_moved_apart_around_their_mean(places: list[float], apart: list[float]):
    assert spread_apart(places, 0.1) == pytest.approx(apart)


def test_crowds_that_meet_become_one():
    moved = spread_apart([0.30, 0.31, 0.32, 0.45, 0.46], 0.1)
    gaps = [after - before for before, after in pairwise(moved)]
    assert min(gaps) >= 0.1 - 1e-12 and sum(moved) == pytest.approx(0.30 + 0.31 + 0.32 + 0.45 + 0.46)
