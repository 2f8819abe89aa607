"""Intervals of a change that is measured on the same items before and after, under several seeds."""

from collections.abc import Sequence

import numpy as np

from analysis.statistics.intervals import CONFIDENCE

DRAWS = 2000


def paired_bootstrap(
    changes: Sequence[np.ndarray], weights: Sequence[np.ndarray] | None = None, *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean change and the ends of its 95 % interval, from the change of every item under every seed.

    `changes` holds an array of items per seed, `weights` their weights, such as the tokens of a document. The
    mean over seeds of the weighted means over items is drawn again 2,000 times: seeds with replacement, then
    the items of each, and the ends are the quantiles of the draws. Pairing is in the changes: an item that is
    hard before and after does not widen the interval. A single seed is drawn every time: the interval is that
    of its items, about one sequence of edits. NaN for less than two items.
    """
    weights = [np.ones(len(each)) for each in changes] if weights is None else weights
    mean = float(np.mean([np.average(c, weights=w) for c, w in zip(changes, weights, strict=True)]))
    if min(map(len, changes)) < 2:
        return mean, np.nan, np.nan
    rng = np.random.default_rng(seed)
    drawn = np.stack([_drawn_means(c, w, rng) for c, w in zip(changes, weights, strict=True)])
    seeds = rng.integers(len(changes), size=(len(changes), DRAWS))
    means = np.take_along_axis(drawn, seeds, axis=0).mean(axis=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return mean, float(low), float(high)


def _drawn_means(changes: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weighted means of the items of one seed, drawn with replacement."""
    count = len(changes)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) * weights
    return (drawn @ changes) / drawn.sum(axis=1)
