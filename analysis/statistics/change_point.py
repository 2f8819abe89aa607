"""Where an ability breaks as a norm grows: the beginning of its fall, with a bootstrap interval.

The model of accuracy y against the norm ratio x is a level, a fall and a floor:

    y = a − s · clip(log x − log τ, 0, log w),   s ≥ 0

τ is the change-point and τ w where the floor begins. Both are sought on the grid of measured ratios and the
geometric middles between them; a and s are the least-squares line for each pair. The interval holds 95 % of
the change-points of bootstrap samples, each of which draws runs with replacement, and of each as many
measurements as it has; a sample in which nothing falls counts as a break at infinity. What lies between two
places of the grid is found at either: the interval reaches one place beyond the change-points in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_GRID = 48
"""Places for τ at the most; pairs grow with the square."""
_LEAST = 0.05
"""Fall of an accuracy that counts as one."""


@dataclass(frozen=True, kw_only=True)
class Break:
    """A change-point."""

    at: float
    """τ, a ratio."""
    low: float
    high: float
    """Ends of its 95 % interval."""
    level: float
    """a, before the break."""
    floor: float
    """Where the fall ends."""
    explained: float
    """Share of the variance of y that the model explains."""


def change_point(
    ratios: Sequence[np.ndarray], values: Sequence[np.ndarray], *, samples: int = 500, seed: int = 0
) -> Break | None:
    """The change-point of runs, each with its ratios and values; none where nothing falls.

    What is not finite is left out. Nothing falls where fewer than five measurements are left, where the
    ratios are all the same, where the fall is less than 0.05, or where a level explains the values as well
    (by BIC, with three parameters less).
    """
    runs = [_finite(x, y) for x, y in zip(ratios, values, strict=True)]
    owner = np.repeat(np.arange(len(runs)), [len(x) for x, _ in runs])
    x, y = (np.concatenate([run[axis] for run in runs]) for axis in (0, 1))
    if len(x) < 5 or np.ptp(x) == 0:
        return None
    places = _places(x)
    first, second = np.triu_indices(len(places), k=1)
    pairs = np.stack([places[first], places[second]], axis=1)
    # (pair, measurement): how far the fall has come, in units of log x
    fallen = np.clip(x - pairs[:, :1], 0, pairs[:, 1:] - pairs[:, :1])
    whole = _lines(np.ones((1, len(x))), fallen, y)
    best = int(whole.error[0].argmin())
    level, slope = float(whole.level[0, best]), float(whole.slope[0, best])
    variance = float(((y - y.mean()) ** 2).sum())
    fall = slope * float(pairs[best, 1] - pairs[best, 0])
    if fall < _LEAST or not _is_told(float(whole.error[0, best]), variance, len(y)):
        return None
    weights = _drawn(owner, len(runs), samples, seed)
    drawn = _lines(weights, fallen, y)
    chosen = drawn.error.argmin(axis=1)
    # a sample in which nothing falls breaks nowhere
    falls = drawn.slope[np.arange(len(chosen)), chosen] * (pairs[chosen, 1] - pairs[chosen, 0])
    found = np.where(falls >= _LEAST, first[chosen], len(places))
    low, high = np.quantile(found, (0.025, 0.975), method="nearest").astype(int)
    return Break(
        at=float(np.exp(pairs[best, 0])),
        low=float(np.exp(places[max(low - 1, 0)])),
        high=float(np.exp(places[high + 1])) if high < len(places) else np.inf,
        level=level,
        floor=level - slope * float(pairs[best, 1] - pairs[best, 0]),
        explained=1 - float(whole.error[0, best]) / variance,
    )


def _is_told(error: float, variance: float, count: int) -> bool:
    """Whether the fall lowers the Bayesian information criterion: n log(SSE) + parameters · log n."""
    return bool(count * np.log(max(error, 1e-12) / variance) + 3 * np.log(count) < 0)


@dataclass(frozen=True)
class _Lines:
    """Least-squares lines y = level − slope · fallen, (sample, pair)."""

    level: np.ndarray
    slope: np.ndarray
    error: np.ndarray


def _lines(weights: np.ndarray, fallen: np.ndarray, y: np.ndarray) -> _Lines:
    """Weighted lines of every sample of weights for every pair; a rise counts as a level."""
    total = weights.sum(axis=1, keepdims=True)
    mean_f, mean_y = weights @ fallen.T / total, (weights @ y)[:, None] / total
    spread = weights @ (fallen**2).T / total - mean_f**2
    joint = weights @ (fallen * y).T / total - mean_f * mean_y
    slope = np.maximum(-joint / np.where(spread > 1e-12, spread, np.inf), 0.0)
    level = mean_y + slope * mean_f
    variance = (weights @ y**2)[:, None] / total - mean_y**2
    error = total * (variance + 2 * slope * joint + slope**2 * spread)
    return _Lines(level=level, slope=slope, error=error)


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0)
    return np.log(x[keep]), y[keep]


def _places(x: np.ndarray) -> np.ndarray:
    """Places of the grid: measured ratios and their middles, thinned."""
    measured = np.unique(np.round(x, 6))
    places = np.sort(np.concatenate([measured, (measured[1:] + measured[:-1]) / 2]))
    return places[np.unique(np.linspace(0, len(places) - 1, min(_GRID, len(places))).astype(int))]


def _drawn(owner: np.ndarray, runs: int, samples: int, seed: int) -> np.ndarray:
    """(sample, measurement): how often each is drawn, runs first and then as many measurements of each."""
    rng = np.random.default_rng(seed)
    times = rng.multinomial(runs, np.full(runs, 1 / runs), size=samples)
    weights = np.zeros((samples, len(owner)))
    for run in range(runs):
        size = int((owner == run).sum())
        if size:
            weights[:, owner == run] = rng.multinomial(times[:, run] * size, np.full(size, 1 / size))
    return weights
