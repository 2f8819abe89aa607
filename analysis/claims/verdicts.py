"""Whether the runs show a claim of a paper, in four words.

A claim is a statement with its source and a threshold on a number that we measure. The number is measured in
cases, for example one per editor, each with repeats, such as seeds; a case has a mean and its 95 % interval
over the repeats. A mean nearer to the threshold than the smallest effect that counts does not hold; a single
repeat, which has no interval, has to be five times as far from it. The verdict depends on the cases alone:

* `confirmed`: in every case the whole interval lies on the claimed side of the threshold, and no run failed;
* `partly`: in some cases;
* `not seen`: in none, although the effect would have been seen: the runs are as long as the source's, and the
  whole interval of some case excludes half of the source's effect, or the smallest effect that counts if the
  source gives no number; or a repeat broke;
* `untested`: in none, and it could not have been seen: no run has the number, all cases are undecided, or
  the runs are shorter than the source's. Then the trend tells where it would reach the source's number.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.evidence import Evidence, Measure
from analysis.statistics.intervals import CONFIDENCE, over_seeds

Verdict = Literal["confirmed", "partly", "not seen", "untested"]
Side = Literal["above", "below"]

OPEN = "open question"
"""The source of a claim that no paper makes."""
ROUNDING = 1e-6
"""Smaller distances from a threshold count as zero."""
SINGLE_REPEAT_FACTOR = 5
"""Distance of a single repeat from the threshold, in multiples of the smallest effect that counts: 0.05 of
accuracies, about two standard errors of the difference of two shares of a thousand answers."""

LEFT_OUT = 0.01
"""Share of its edits or steps that a run as long as the source's may lack, such as facts that a model
cannot read."""

POWER = 0.8
"""Chance with which the minimum detectable effect would be seen."""

_COLUMNS = ("case", "mean", "low", "high", "seeds", "broken", "holds", "against", "detectable", "p")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that runs can support or contradict."""

    statement: str
    source: str = OPEN
    reported: str = "–"
    """The value in the source, as written there; a dash if there is none."""
    quantity: str
    """The number that we measure for it, with its unit."""
    measure: Measure
    side: Side
    """The side of the threshold on which the claim puts the quantity."""
    source_value: float | None = None
    """The quantity in the source, if it gives a number."""
    null: float | None = None
    """The quantity if nothing happened; None for the threshold. The source's effect is counted from it."""
    source_length: int | None = None
    """Edits or steps after which the source has its number; None if it does not say, or any will do."""
    threshold: float = 0.0
    smallest_effect: float = ROUNDING
    """Smallest distance of a mean from the threshold that counts."""
    smallest_effect_alone: float | None = None
    """The same for a single repeat, which has no interval; None for `SINGLE_REPEAT_FACTOR` times as much."""
    ratio: bool = False
    """Whether the quantity is a ratio: its mean is geometric, intervals and effects are of logarithms."""
    always: bool = False
    """Whether one repeat refutes the claim: intervals then range from the smallest to the largest repeat."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim judged by the runs of an experiment."""

    claim: Claim
    verdict: Verdict
    cases: pd.DataFrame
    """One row per case: case, mean, low, high, seeds (finite repeats), broken (others), holds, against,
    detectable, p.

    A case holds if its whole interval is on the claimed side and none of its repeats broke. It is against the
    claim if its whole interval is on the other side or, with several repeats, short of the smallest effect
    that counts, and excludes half of the source's effect if the source gives a number; a claim of `always`
    has a case against it if any repeat is. All other cases are undecided. Detectable is the minimum
    detectable effect: the distance from the threshold that would have been seen with a chance of 80 %, of
    logarithms for a ratio; for a single repeat the distance that counts. p is that of a mean at the
    threshold, by the interval; NaN without one.
    """
    length: int = 0
    """Edits or steps of the longest run."""
    trend: float | None = None
    """Change of the mean per edit or step, of logarithms for a ratio, over the second half of the runs; only
    of one case in runs that are shorter than the source's."""

    @property
    def p(self) -> float:
        """The largest p of a case that holds: that of the statement that all of them do; NaN without one."""
        holding = self.cases.loc[self.cases["holds"].astype(bool), "p"].astype(float)
        return float(holding.max(skipna=False)) if len(holding) else np.nan

    @property
    def is_short(self) -> bool:
        """Whether the runs are shorter than the source's."""
        return is_short(self.length, self.claim)

    @property
    def reach(self) -> float | None:
        """Edits or steps at which the trend leads to the source's number, or else to the threshold.

        None if it leads away from it.
        """
        if self.trend is None:
            return None
        aim = self.claim.threshold if self.claim.source_value is None else self.claim.source_value
        left = _difference(aim, float(self.cases["mean"].iloc[0]), self.claim)
        return self.length + left / self.trend if left * self.trend > 0 else None


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """The verdict on a claim; repeats that are not finite count as on the wrong side."""
    cases, length = _judged(claim, evidence), evidence.length
    failed = any(run.status == "failed" for run in evidence.collection.unfinished)
    short = is_short(length, claim)
    verdict = _verdict(cases, failed=failed, is_short=short)
    trend = _trend(claim, evidence, cases) if short and len(cases) == 1 and verdict == "untested" else None
    return Finding(claim=claim, verdict=verdict, cases=cases, length=length, trend=trend)


def is_short(length: int, claim: Claim) -> bool:
    """Whether runs of this length are shorter than the source's, by more than `LEFT_OUT` of it."""
    return length < (1 - LEFT_OUT) * (claim.source_length or 0)


def _judged(claim: Claim, evidence: Evidence) -> pd.DataFrame:
    """The cases of a claim, as `Finding` describes them."""
    repeats = claim.measure(evidence)
    if repeats.empty:
        return pd.DataFrame(columns=[*_COLUMNS])
    cases = _cases(claim, repeats)
    near, far = ("low", "high") if claim.side == "above" else ("high", "low")
    has_intervals = "low" in repeats
    smallest = _smallest_effects(claim, cases, has_intervals=has_intervals)
    is_large = _distances(cases["mean"], claim) >= smallest
    cases["holds"] = _beyond(cases[near], claim.side, claim.threshold) & is_large & (cases["broken"] == 0)
    other: Side = "below" if claim.side == "above" else "above"
    if claim.always:
        cases["against"] = _beyond(cases[near], other, claim.threshold)
    else:
        falls_short = _beyond(cases[far], other, _shifted_threshold(claim)) & (cases["seeds"] > 1)
        cases["against"] = (_beyond(cases[far], other, claim.threshold) & is_large) | falls_short
        cases["against"] &= _beyond(cases[far], other, _half_way(claim))
    cases["detectable"] = _detectable(claim, cases, smallest)
    cases["p"] = _p_values(claim, cases, is_normal=has_intervals)
    return cases


def _verdict(cases: pd.DataFrame, *, failed: bool, is_short: bool) -> Verdict:
    if cases.empty:
        return "untested"
    if bool(cases["holds"].all()) and not failed:
        return "confirmed"
    if bool(cases["holds"].any()):
        return "partly"
    is_contradicted = bool(cases["against"].any()) and not is_short
    return "not seen" if is_contradicted or bool(cases["broken"].any()) else "untested"


def _half_way(claim: Claim) -> float:
    """Half of the source's effect, at most the threshold; beyond all values if it gives no number."""
    if claim.source_value is None:
        return np.inf if claim.side == "above" else -np.inf
    null = claim.threshold if claim.null is None else claim.null
    half = (null * claim.source_value) ** 0.5 if claim.ratio else (null + claim.source_value) / 2
    return (min if claim.side == "above" else max)(half, claim.threshold)


def _detectable(claim: Claim, cases: pd.DataFrame, smallest: np.ndarray) -> np.ndarray:
    """Minimum detectable effect of every case: half the interval × (1 + z(POWER) / its quantile)."""
    low, high = (cases[end].to_numpy(dtype=float) for end in ("low", "high"))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.abs(np.log(high / low) if claim.ratio else high - low) / 2
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, df=np.maximum(cases["seeds"].to_numpy(dtype=float) - 1, 1))
    seen = half * (1 + stats.norm.ppf(POWER) / quantile)
    return np.where(claim.always | ~(half > 0), smallest, seen)


def _p_values(claim: Claim, cases: pd.DataFrame, *, is_normal: bool) -> np.ndarray:
    """Two-sided p of a mean at the threshold; half an interval is its quantile × the error."""
    low, high = (cases[end].to_numpy(dtype=float) for end in ("low", "high"))
    distance = _distances(cases["mean"], claim).to_numpy(dtype=float)
    df = np.where(is_normal, np.inf, np.maximum(cases["seeds"].to_numpy(dtype=float) - 1, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.abs(np.log(high / low) if claim.ratio else high - low) / 2
        score = distance / half * stats.t.ppf((1 + CONFIDENCE) / 2, df=df)
    return np.where(claim.always | ~(half > 0), np.nan, 2 * stats.t.sf(score, df=df))


def _trend(claim: Claim, evidence: Evidence, cases: pd.DataFrame) -> float | None:
    """Change of the mean per edit or step over the second half of the runs."""
    middle = evidence.length // 2
    earlier = _judged(claim, evidence.until(middle))
    if len(earlier) != 1 or not middle:
        return None
    change = _difference(float(cases["mean"].iloc[0]), float(earlier["mean"].iloc[0]), claim)
    return change / (evidence.length - middle) if np.isfinite(change) and change else None


def _difference(value: float, other: float, claim: Claim) -> float:
    """value − other, of logarithms for a ratio."""
    return float(np.log(value / other)) if claim.ratio else value - other


def _cases(claim: Claim, repeats: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of every case; the intervals of the measure itself take precedence."""
    # an infinity or NaN is a model that broke: the interval of the other repeats does not hold for it
    values = repeats["value"].to_numpy(dtype=float)
    is_broken = pd.Series(~np.isfinite(values) | (claim.ratio & (values <= 0)), repeats.index)
    broken = is_broken.groupby(repeats["case"], sort=False).sum()
    cases = over_seeds(repeats, by=("case",), log=claim.ratio).set_index("case").reindex(broken.index)
    if claim.always:
        finite_values = repeats[~is_broken].groupby("case")["value"]
        cases = cases.assign(low=finite_values.min(), high=finite_values.max())
    if "low" in repeats:
        intervals = repeats.set_index("case")
        seeds = intervals["seeds"].where(broken == 0)
        cases = cases.assign(low=intervals["low"], high=intervals["high"], seeds=seeds)
    return cases.assign(seeds=cases["seeds"].fillna(0), broken=broken).reset_index()


def _distances(means: pd.Series, claim: Claim) -> pd.Series:
    """|mean − threshold|, of logarithms for a ratio."""
    if claim.ratio:
        return pd.Series(np.abs(np.log(means.to_numpy(dtype=float) / claim.threshold)), means.index)
    return (means - claim.threshold).abs()


def _smallest_effects(claim: Claim, cases: pd.DataFrame, *, has_intervals: bool) -> np.ndarray:
    """Smallest distance from the threshold that counts, by case."""
    alone = claim.smallest_effect_alone
    if alone is None:
        alone = SINGLE_REPEAT_FACTOR * claim.smallest_effect
    return np.where((cases["seeds"] > 1) | has_intervals, claim.smallest_effect, alone)


def _shifted_threshold(claim: Claim) -> float:
    """The threshold moved to the claimed side by the smallest effect that counts."""
    shift = claim.smallest_effect if claim.side == "above" else -claim.smallest_effect
    return claim.threshold * float(np.exp(shift)) if claim.ratio else claim.threshold + shift


def _beyond(values: pd.Series, side: Side, threshold: float) -> pd.Series:
    return values > threshold if side == "above" else values < threshold
