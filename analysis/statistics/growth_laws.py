"""Growth laws: does a norm grow linearly, like a square root or exponentially?

With r(n) = ‖Wₙ‖ / ‖W₀‖ after n edits, r(0) = 1, each law has one rate b > 0:

    linear       r = 1 + b n          every update adds its length
    square root  r = √(1 + b n)       orthogonal updates of equal length: ‖W‖² grows by the same amount
    exponential  r = exp(b n)         updates grow with the matrix (arXiv 2602.02543)

b minimises Σ (log r − log r̂)², so that a factor of two has the same weight everywhere on the curve.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

_Law = Callable[[np.ndarray], np.ndarray]

LAWS: Mapping[str, _Law] = MappingProxyType(
    {
        "linear": np.log1p,
        "square root": lambda grown: 0.5 * np.log1p(grown),
        "exponential": lambda grown: grown,
    }
)
"""log r as a function of b n."""


def fit_growth_laws(counts: np.ndarray, ratios: np.ndarray) -> pd.DataFrame:
    """The laws fitted to one run, the best first.

    Returns columns `law`, `rate` (b, per edit), `error` (Σ of squared deviations of log r) and `explained`
    (1 − error / Σ (log r − mean)²; NaN for a constant norm). Ratios that are not finite and positive, and the
    start, are left out; empty if fewer than three are left.
    """
    usable = (counts > 0) & np.isfinite(ratios) & (ratios > 0)
    n, grown = counts[usable].astype(float), np.log(ratios[usable])
    if len(n) < 3:
        return pd.DataFrame(columns=["law", "rate", "error", "explained"])
    total = float(((grown - grown.mean()) ** 2).sum())
    rows = []
    for law, curve in LAWS.items():
        rate, error = _best_rate(curve, n, grown)
        rows.append((law, rate, error, 1 - error / total if total > 0 else float("nan")))
    table = pd.DataFrame(rows, columns=["law", "rate", "error", "explained"])
    return table.sort_values("error", kind="stable", ignore_index=True)


def _best_rate(curve: _Law, n: np.ndarray, grown: np.ndarray) -> tuple[float, float]:
    """Rate and squared error; log b is optimised, since rates of laws differ by orders of magnitude."""

    def error(log_rate: float) -> float:
        return float(((grown - curve(np.exp(log_rate) * n)) ** 2).sum())

    far = 2 * abs(float(grown[-1])) + 1
    span = (np.log(1e-9 / n.max()), np.log(np.expm1(min(far, 300)) / n.min()))
    # a grid first: far from the optimum the error is flat
    grid = np.linspace(*span, 200)
    best = int(np.argmin([error(log_rate) for log_rate in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    optimum = minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(optimum.x)), float(optimum.fun)
