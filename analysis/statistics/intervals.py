"""95 % intervals: of a share over clustered trials, and of a mean over seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


def cluster_bootstrap(
    sums: np.ndarray, sizes: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % intervals of ratios Σ sums / Σ sizes over clusters, for `sums` of (cluster, ratio).

    Trials of one cluster depend on each other, so that clusters are drawn with replacement, the same for all
    ratios: the difference of two paired ratios, or their mean, is a ratio of its own. With n clusters the
    ends are the quantiles Φ(∓ t √(n / (n − 1))) of the drawn ratios, where t is the 0.975 quantile of
    Student's distribution with n − 1 degrees of freedom: plain quantiles give too narrow intervals if there
    are few clusters (Hesterberg 2015, arXiv 1411.5279). NaN for a single cluster, which shows no variation;
    no width if all clusters are alike.
    """
    count = len(sizes)
    if count < 2:
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=samples).astype(float)
    ratios = (weights @ sums) / (weights @ sizes)[:, None]
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, df=count - 1) * np.sqrt(count / (count - 1))
    low, high = np.quantile(ratios, stats.norm.cdf([-reach, reach]), axis=0)
    return low, high


def over_seeds(values: pd.DataFrame, *, by: Sequence[str], log: bool = False) -> pd.DataFrame:
    """Mean and 95 % interval of `value` in every group; columns: `by`, mean, low, high, seeds.

    mean ± t(0.975, n − 1) s / √n with Student's t, since seeds are few; a single value has low = mean = high.
    With `log` the same of the logarithms (geometric mean), for quantities that grow exponentially: such an
    interval stays positive. Values that are not finite are left out.
    """
    finite = values.loc[np.isfinite(values["value"]), [*by, "value"]]
    if log:
        finite = finite[finite["value"] > 0].assign(value=lambda rows: np.log(rows["value"]))
    groups = finite.groupby(list(by), sort=False)["value"]
    table = groups.agg(mean="mean", std="std", seeds="count").reset_index()
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, df=np.maximum(table["seeds"] - 1, 1))
    half = quantile * table["std"].fillna(0.0) / np.sqrt(table["seeds"])
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)[
        [*by, "mean", "low", "high", "seeds"]
    ]
    return table.assign(**{name: np.exp(table[name]) for name in ("mean", "low", "high")}) if log else table
