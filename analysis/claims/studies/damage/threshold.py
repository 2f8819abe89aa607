"""Study of the norm at which each ability breaks if nothing but the norm of one matrix grows."""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.evidence import Evidence, changes
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, Study, Table, falls
from analysis.claims.verdicts import Claim
from analysis.statistics.change_point import ChangePoint, change_point

_STATIC = "norm/frobenius_ratio/static"


def _against_static(evidence: Evidence, key: str) -> pd.DataFrame:
    """Rows of a metric with `ratio`: the edited over the static norm ratio at the same count."""
    at = ["run", "part", "count"]
    edited = evidence.series(EDITED).set_index(at)["value"]
    static = evidence.series(_STATIC).set_index(at)["value"].reindex(edited.index)
    # a static matrix keeps its norm between two whole measurements
    ratio = (edited / static.groupby("run").ffill()).rename("ratio")
    return evidence.series(key).merge(ratio.reset_index(), on=at)


def _breaks(evidence: Evidence, key: str) -> Iterator[tuple[str, int, float, ChangePoint | None]]:
    """Case, its number of runs, largest ratio and change-point of a metric, by model and kind of growth."""
    rows = _against_static(evidence, key)
    cases = rows["run"].map(evidence.cases(("model", "editor.direction")))
    for case, group in rows.groupby(cases):
        # growth without random numbers is the same in every run: it was measured once
        distinct = {tuple(run["value"]): run for _, run in group.groupby("run")}
        runs = list(distinct.values())
        point = change_point(
            [run["ratio"].to_numpy() for run in runs], [run["value"].to_numpy() for run in runs]
        )
        yield str(case), len(runs), float(group["ratio"].max()), point


def _break_table(evidence: Evidence) -> pd.DataFrame:
    """One row per case and metric; dashes if nothing falls."""
    keys = evidence.matching("downstream/(?P<task>.+)", "acc")["key"].unique().tolist()
    rows = []
    for key in [*sorted(keys), *((KNOWN,) if len(evidence.series(KNOWN)) else ())]:
        for case, _, largest, point in _breaks(evidence, key):
            fit = (
                (point.at, point.low, point.high, point.level, point.floor, point.explained) if point else ()
            )
            rows.append((case, key, largest, *fit))
    columns = ["growth of", "metric", "up to", "breaks at", "low", "high", "fitted level", "fitted floor"]
    # all columns, even if nothing falls anywhere
    return pd.DataFrame.from_records(rows).reindex(columns=range(9)).set_axis([*columns, "explained"], axis=1)


def _break_of_ability(evidence: Evidence) -> pd.DataFrame:
    """The change-point of the mean downstream accuracy by case, with its bootstrap interval.

    It lies beyond the largest ratio if nothing falls.
    """
    rows = []
    for case, runs, largest, point in _breaks(evidence, DOWNSTREAM):
        at, low, high = (point.at, point.low, point.high) if point else (largest, largest, float("inf"))
        rows.append({"case": case, "value": at, "low": low, "high": high, "seeds": runs})
    return pd.DataFrame(rows, columns=["case", "value", "low", "high", "seeds"])


STUDIES = (
    Study(
        name="threshold",
        question="At which norm of the edited matrices, over that of the others, does each ability break? "
        "Nothing is edited: an edit here is a step of growth, and a break lies between two of them. What is "
        "added is random, or the matrix itself (`scaled`), which draws nothing, so that its runs are equal "
        "and count once for a break.",
        claims=(
            falls(
                "Growth of one block's matrix, without any edit, costs downstream ability.",
                "mean downstream accuracy, at the largest norm, `up to` in the table, minus at the start",
                changes(DOWNSTREAM, ("model", "editor.direction")),
            ),
            Claim(
                statement="Ability breaks before the norm is three times the unedited one.",
                quantity="change-point of the mean downstream accuracy, a norm ratio of edited over static "
                "matrices, and its bootstrap interval over runs and their measurements, out to the next "
                "places that were looked at; where nothing falls the largest ratio that was measured, "
                "without an upper end",
                measure=_break_of_ability,
                side="below",
                threshold=3.0,
            ),
        ),
        figures=("ability", "downstream"),
        series=("model", "editor.direction"),
        tables=(
            Table(
                title="Change-points with 95 % bootstrap intervals, each of a level that falls with the "
                "logarithm of the ratio to a floor; both are fitted and can lie beyond what is possible, "
                "`explained` is the share of the variance",
                build=_break_table,
            ),
        ),
    ),
)
