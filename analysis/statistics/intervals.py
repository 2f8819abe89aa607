"""95 % intervals: of a share, and of a mean over seeds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from torch import Tensor

_QUANTILE = 1.959964
"""Quantile of the normal distribution for an interval of 95 %."""

CONFIDENCE = 0.95


def wilson_interval(
    share: Float[Tensor, " *any"], trials: int
) -> tuple[Float[Tensor, " *any"], Float[Tensor, " *any"]]:
    """Ends of the 95 % interval of a share p of n trials (Wilson 1927):

    (p + z² / 2n ± z √(p (1 − p) / n + z² / 4n²)) / (1 + z² / n).
    """
    square = _QUANTILE**2 / trials
    middle = share + square / 2
    spread = (square * (share * (1 - share) + square / 4)).sqrt()
    return (middle - spread) / (1 + square), (middle + spread) / (1 + square)


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
