"""How well one number tells another if all that is known is that they rise, or fall, together."""

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation of the finite pairs; NaN for fewer than three, or if one never changes."""
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(pd.Series(x).corr(pd.Series(y), method="spearman"))


def explained_share(x: np.ndarray, y: np.ndarray) -> float:
    """Share of the variance of y that the best rising function of x explains.

    1 − Σ(y − ŷ)² / Σ(y − ȳ)² with ŷ by isotonic regression on the same points, so that it is optimistic for
    few of them. NaN as for `rank_correlation`.
    """
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    fitted = IsotonicRegression().fit(x, y).predict(x)
    return float(1 - np.square(y - fitted).sum() / np.square(y - y.mean()).sum())
