"""Whether the runs show a claim of a paper.

A claim is a statement with its source and a threshold on a number that we measure. The number is measured in
cases, for example one per editor, each with repeats, such as seeds; a case has a mean and its 95 % interval
over the repeats. A mean nearer to the threshold than the smallest effect that counts does not hold; a single
repeat, which has no interval, has to be five times as far from it. The verdict depends on the cases alone:

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

OPEN = "open question"
"""The source of a claim that no paper makes."""
ROUNDING = 1e-6
"""Smaller distances from a threshold count as zero."""
SINGLE_REPEAT_FACTOR = 5
"""Distance of a single repeat from the threshold, in multiples of the smallest effect that counts: 0.05 of
accuracies, about two standard errors of the difference of two shares of a thousand answers."""

_COLUMNS = ("case", "mean", "low", "high", "seeds", "broken", "holds", "against")


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
    """One row per case: case, mean, low, high, seeds (finite repeats), broken (others), holds, against.

    A case holds if its whole interval is on the claimed side and none of its repeats broke. It is against the
    claim if its whole interval is on the other side or, with several repeats, short of the smallest effect
    that counts; a claim of `always` has a case against it if any repeat is. All other cases are undecided.
    """


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """The verdict on a claim; repeats that are not finite count as on the wrong side."""
    repeats = claim.measure(evidence)
    if repeats.empty:
        nothing = pd.DataFrame(columns=[*_COLUMNS])
        return Finding(claim=claim, verdict="not measurable at this scale", cases=nothing)
    cases = _cases(claim, repeats)
    near, far = ("low", "high") if claim.side == "above" else ("high", "low")
    has_intervals = "low" in repeats
    is_large = _distances(cases["mean"], claim) >= _smallest_effects(
        claim, cases, has_intervals=has_intervals
    )
    cases["holds"] = _beyond(cases[near], claim.side, claim.threshold) & is_large & (cases["broken"] == 0)
    other: Side = "below" if claim.side == "above" else "above"
    if claim.always:
        cases["against"] = _beyond(cases[near], other, claim.threshold)
    else:
        falls_short = _beyond(cases[far], other, _shifted_threshold(claim)) & (cases["seeds"] > 1)
        cases["against"] = (_beyond(cases[far], other, claim.threshold) & is_large) | falls_short
    failed = any(run.status == "failed" for run in evidence.collection.unfinished)
    return Finding(claim=claim, verdict=_verdict(cases, failed), cases=cases)


def _verdict(cases: pd.DataFrame, failed: bool) -> Verdict:
    if bool(cases["holds"].all()) and not failed:
        return "appears"
    if bool(cases["holds"].any()):
        return "appears in part"
    is_contradicted = bool(cases["against"].any() or cases["broken"].any())
    return "does not appear" if is_contradicted else "not measurable at this scale"


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
