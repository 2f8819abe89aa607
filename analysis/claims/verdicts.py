"""What a paper says, what was measured, and whether the one shows in the other.

A claim is a statement with its source and a threshold on a number that we measure. The number is measured in
cases, such as one for every editor, each with repeats, such as seeds; a case has a mean and its 95 % interval
over the repeats. A mean nearer to the threshold than the smallest effect that counts does not hold; a single
repeat, which has no interval, has to be five times as far from it. The verdict follows from the cases alone:

* `appears`: in every case the whole interval lies on the claimed side of the threshold, and no run failed;
* `appears in part`: in some cases;
* `does not appear`: in none, and some case speaks against it or broke;
* `not measurable at this scale`: there is no case, or all are undecided.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Measure
from analysis.statistics.intervals import over_seeds

Verdict = Literal["appears", "appears in part", "does not appear", "not measurable at this scale"]
Side = Literal["above", "below"]

ROUNDING = 1e-6
"""Distances from a threshold below it are none."""
ALONE = 5
"""How many times the smallest effect that counts a single repeat has to be from the threshold: of accuracies
0.05, about two standard errors of the difference of two shares of a thousand answers."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that runs can support or contradict."""

    says: str
    source: str
    told: str
    """The source's value, as it gives it."""
    quantity: str
    """What we measure for it, with its unit."""
    measure: Measure
    side: Side
    """On which side of the threshold the claim puts the quantity."""
    threshold: float
    least: float = ROUNDING
    """Smallest distance of a mean from the threshold that counts."""
    alone: float | None = None
    """The same of a single repeat, which has no interval; `ALONE` times `least` where it is not given."""
    ratio: bool = False
    """Whether the quantity is a ratio: its mean is geometric, intervals and `least` are of logarithms."""
    always: bool = False
    """Whether one repeat refutes the claim: intervals go from the smallest to the largest."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the runs say of a claim."""

    claim: Claim
    verdict: Verdict
    cases: pd.DataFrame
    """A row per case: case, mean, low, high, seeds (finite repeats), broken (others), holds, against.

    A case holds where its whole interval is on the claimed side and none of its repeats broke. It is against
    the claim where its whole interval is on the other side, or, of several repeats, short of the smallest
    effect that counts; against one of `always` where any repeat is. All others are undecided.
    """


def judged(claim: Claim, evidence: Evidence) -> Finding:
    """The verdict on a claim; repeats that are not finite count as on the wrong side."""
    repeats = claim.measure(evidence)
    if repeats.empty:
        columns = ["case", "mean", "low", "high", "seeds", "broken", "holds", "against"]
        return Finding(
            claim=claim, verdict="not measurable at this scale", cases=pd.DataFrame(columns=columns)
        )
    cases = _cases(claim, repeats)
    near, far = ("low", "high") if claim.side == "above" else ("high", "low")
    counts = _distance(cases["mean"], claim) >= _least(claim, cases, has_intervals="low" in repeats)
    cases["holds"] = _beyond(cases[near], claim.side, claim.threshold) & counts & (cases["broken"] == 0)
    other: Side = "below" if claim.side == "above" else "above"
    if claim.always:
        cases["against"] = _beyond(cases[near], other, claim.threshold)
    else:
        short = _beyond(cases[far], other, _reach(claim)) & (cases["seeds"] > 1)
        cases["against"] = (_beyond(cases[far], other, claim.threshold) & counts) | short
    failed = any(run.status == "failed" for run in evidence.collection.unfinished)
    return Finding(claim=claim, verdict=_verdict(cases, failed), cases=cases)


def _verdict(cases: pd.DataFrame, failed: bool) -> Verdict:
    if bool(cases["holds"].all()) and not failed:
        return "appears"
    if bool(cases["holds"].any()):
        return "appears in part"
    told = bool(cases["against"].any() or cases["broken"].any())
    return "does not appear" if told else "not measurable at this scale"


def _cases(claim: Claim, repeats: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of every case; a measure may come with an interval of its own."""
    # an infinity or NaN is a model that broke: no interval of the others may speak for it
    values = repeats["value"].to_numpy(dtype=float)
    lost = pd.Series(~np.isfinite(values) | (claim.ratio & (values <= 0)), repeats.index)
    broken = lost.groupby(repeats["case"], sort=False).sum()
    finite = over_seeds(repeats, by=("case",), log=claim.ratio).set_index("case").reindex(broken.index)
    if claim.always:
        given = repeats[~lost].groupby("case")["value"]
        finite = finite.assign(low=given.min(), high=given.max())
    if "low" in repeats:
        own = repeats.set_index("case")
        finite = finite.assign(low=own["low"], high=own["high"], seeds=own["seeds"].where(broken == 0))
    return finite.assign(seeds=finite["seeds"].fillna(0), broken=broken).reset_index()


def _distance(means: pd.Series, claim: Claim) -> pd.Series:
    """|mean − threshold|, of logarithms for a ratio."""
    if claim.ratio:
        return pd.Series(np.abs(np.log(means.to_numpy(dtype=float) / claim.threshold)), means.index)
    return (means - claim.threshold).abs()


def _least(claim: Claim, cases: pd.DataFrame, *, has_intervals: bool) -> np.ndarray:
    """Smallest distance of each case from the threshold that counts."""
    alone = ALONE * claim.least if claim.alone is None else claim.alone
    return np.where((cases["seeds"] > 1) | has_intervals, claim.least, alone)


def _reach(claim: Claim) -> float:
    """The threshold moved to the claimed side by the smallest effect that counts."""
    least = claim.least if claim.side == "above" else -claim.least
    return claim.threshold * float(np.exp(least)) if claim.ratio else claim.threshold + least


def _beyond(values: pd.Series, side: Side, threshold: float) -> pd.Series:
    return values > threshold if side == "above" else values < threshold
