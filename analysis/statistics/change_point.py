"""The norm at which an ability breaks: the beginning of its fall, with a bootstrap interval.

The model of accuracy y against the norm ratio x is a level, a fall and a floor:

    y = a − s · clip(log x − log τ, 0, log w),   s ≥ 0

τ is the change-point, and the floor begins at τ w. Both are searched on the grid of measured ratios and the
geometric means between neighbours; a and s are the least-squares line for each pair. The interval holds 95 %
of the change-points of bootstrap samples: each draws runs with replacement, and from each run as many
measurements as it has. A sample in which nothing falls counts as a break at infinity. A break between two
points of the grid is found at either, so the interval reaches one grid point beyond the change-points in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_GRID = 48
"""Most grid points for τ; the number of pairs grows with the square."""
_SMALLEST_FALL = 0.05
"""A smaller change of an accuracy does not count as a fall."""


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """A fitted change-point."""

    at: float
    """τ, a ratio."""
    low: float
    """Lower end of the 95 % interval of τ."""
    high: float
    """Upper end of the 95 % interval of τ."""
    level: float
    """a, the value before the break."""
    floor: float
    """The value at the end of the fall."""
    explained: float
    """Share of the variance of y that the model explains."""


def change_point(
    ratios: Sequence[np.ndarray], values: Sequence[np.ndarray], *, samples: int = 500, seed: int = 0
) -> ChangePoint | None:
    """The change-point of runs, each with its ratios and values; None if nothing falls.

    Values that are not finite are left out. Nothing falls if fewer than five measurements are left, if the
    ratios are all the same, if the fall is less than 0.05, or if a level explains the values as well (by BIC,
    with three parameters less).
    """
    runs = [_log_ratios_and_values(x, y) for x, y in zip(ratios, values, strict=True)]
    owner = np.repeat(np.arange(len(runs)), [len(x) for x, _ in runs])
    x, y = (np.concatenate([run[axis] for run in runs]) for axis in (0, 1))
    if len(x) < 5 or np.ptp(x) == 0:
        return None
    grid = _grid(x)
    first, second = np.triu_indices(len(grid), k=1)
    pairs = np.stack([grid[first], grid[second]], axis=1)
    # (pair, measurement): distance from the beginning of the fall, in units of log x
    fallen = np.clip(x - pairs[:, :1], 0, pairs[:, 1:] - pairs[:, :1])
    whole = _lines(np.ones((1, len(x))), fallen, y)
    best = int(whole.error[0].argmin())
    level, slope = float(whole.level[0, best]), float(whole.slope[0, best])
    variance = float(((y - y.mean()) ** 2).sum())
    fall = slope * float(pairs[best, 1] - pairs[best, 0])
    if fall < _SMALLEST_FALL or not _lowers_bic(float(whole.error[0, best]), variance, len(y)):
        return None
    bootstrap = _lines(_bootstrap_weights(owner, len(runs), samples, seed), fallen, y)
    pair = bootstrap.error.argmin(axis=1)
    # a sample in which nothing falls breaks nowhere
    falls = bootstrap.slope[np.arange(len(pair)), pair] * (pairs[pair, 1] - pairs[pair, 0])
    breaks = np.where(falls >= _SMALLEST_FALL, first[pair], len(grid))
    low, high = np.quantile(breaks, (0.025, 0.975), method="nearest").astype(int)
    return ChangePoint(
        at=float(np.exp(pairs[best, 0])),
        low=float(np.exp(grid[max(low - 1, 0)])),
        high=float(np.exp(grid[high + 1])) if high < len(grid) else np.inf,
        level=level,
        floor=level - slope * float(pairs[best, 1] - pairs[best, 0]),
        explained=1 - float(whole.error[0, best]) / variance,
    )


def _lowers_bic(error: float, variance: float, count: int) -> bool:
    """Whether the fall lowers the Bayesian information criterion: n log(SSE) + parameters · log n."""
    return bool(count * np.log(max(error, 1e-12) / variance) + 3 * np.log(count) < 0)


@dataclass(frozen=True)
class _Lines:
    """Least-squares lines y = level − slope · fallen; arrays (sample, pair)."""

    level: np.ndarray
    slope: np.ndarray
    error: np.ndarray


def _lines(weights: np.ndarray, fallen: np.ndarray, y: np.ndarray) -> _Lines:
    """Weighted lines of every sample of weights for every pair; a rise is fitted by a level."""
    total = weights.sum(axis=1, keepdims=True)
    mean_f, mean_y = weights @ fallen.T / total, (weights @ y)[:, None] / total
    spread = weights @ (fallen**2).T / total - mean_f**2
    joint = weights @ (fallen * y).T / total - mean_f * mean_y
    slope = np.maximum(-joint / np.where(spread > 1e-12, spread, np.inf), 0.0)
    level = mean_y + slope * mean_f
    variance = (weights @ y**2)[:, None] / total - mean_y**2
    error = total * (variance + 2 * slope * joint + slope**2 * spread)
    return _Lines(level=level, slope=slope, error=error)


def _log_ratios_and_values(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log x and y of the measurements in which both are finite."""
    finite = np.isfinite(x) & np.isfinite(y) & (x > 0)
    return np.log(x[finite]), y[finite]


def _grid(x: np.ndarray) -> np.ndarray:
    """Points of the grid: measured log ratios and the means of neighbours, thinned."""
    measured = np.unique(np.round(x, 6))
    points = np.sort(np.concatenate([measured, (measured[1:] + measured[:-1]) / 2]))
    return points[np.unique(np.linspace(0, len(points) - 1, min(_GRID, len(points))).astype(int))]


def _bootstrap_weights(owner: np.ndarray, runs: int, samples: int, seed: int) -> np.ndarray:
    """(sample, measurement): how often each is drawn, runs first and then measurements of each."""
    rng = np.random.default_rng(seed)
    times = rng.multinomial(runs, np.full(runs, 1 / runs), size=samples)
    weights = np.zeros((samples, len(owner)))
    for run in range(runs):
        size = int((owner == run).sum())
        if size:
            weights[:, owner == run] = rng.multinomial(times[:, run] * size, np.full(size, 1 / size))
    return weights
