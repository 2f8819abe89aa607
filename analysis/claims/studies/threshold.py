"""At which norm each ability breaks, when nothing but the norm of one place grows."""

from collections.abc import Iterator

import pandas as pd

from analysis.claims.evidence import Evidence, changes
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, NOTICEABLE, OPEN, Study, Table
from analysis.claims.verdicts import Claim
from analysis.statistics.change_point import ChangePoint, change_point

_STATIC = "norm/frobenius_ratio/static"


def _against_static(evidence: Evidence, key: str) -> pd.DataFrame:
    """Rows of a metric with `ratio`, edited over static norm ratio at the same moment."""
    at = ["run", "part", "count"]
    edited = evidence.series(EDITED).set_index(at)["value"]
    static = evidence.series(_STATIC).set_index(at)["value"].reindex(edited.index)
    # a static matrix keeps its norm between two whole measurements
    ratio = (edited / static.groupby("run").ffill()).rename("ratio")
    return evidence.series(key).merge(ratio.reset_index(), on=at)


def _breaks(evidence: Evidence, key: str) -> Iterator[tuple[str, int, float, ChangePoint | None]]:
    """Case, its runs, largest ratio and change-point of a metric, by model and kind of growth."""
    rows = _against_static(evidence, key)
    cases = rows["run"].map(evidence.cases(("model", "editor.direction")))
    for case, group in rows.groupby(cases):
        # what draws nothing is the same in every run: it was measured once
        distinct = {tuple(run["value"]): run for _, run in group.groupby("run")}
        runs = list(distinct.values())
        found = change_point(
            [run["ratio"].to_numpy() for run in runs], [run["value"].to_numpy() for run in runs]
        )
        yield str(case), len(runs), float(group["ratio"].max()), found


def _break_table(evidence: Evidence) -> pd.DataFrame:
    """A row per case and metric; dashes where nothing falls."""
    keys = evidence.having("downstream/(?P<task>.+)", "acc")["key"].unique().tolist()
    rows = []
    for key in [*sorted(keys), *((KNOWN,) if len(evidence.series(KNOWN)) else ())]:
        for case, _, furthest, found in _breaks(evidence, key):
            fit = (
                (found.at, found.low, found.high, found.level, found.floor, found.explained) if found else ()
            )
            rows.append((case, key, furthest, *fit))
    columns = ["growth of", "metric", "up to", "breaks at", "low", "high", "fitted level", "fitted floor"]
    # as many columns as there are, were nothing to fall anywhere
    return pd.DataFrame.from_records(rows).reindex(columns=range(9)).set_axis([*columns, "explained"], axis=1)


def _break_of_ability(evidence: Evidence) -> pd.DataFrame:
    """The change-point of the mean downstream accuracy by case, with its bootstrap interval.

    Where nothing falls it lies beyond the largest ratio.
    """
    rows = []
    for case, runs, furthest, found in _breaks(evidence, DOWNSTREAM):
        at, low, high = (found.at, found.low, found.high) if found else (furthest, furthest, float("inf"))
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
            Claim(
                says="Growth of one block's matrix, without any edit, costs downstream ability.",
                source=OPEN,
                told="–",
                quantity="mean downstream accuracy, at the largest norm, `up to` in the table, minus at the "
                "start",
                measure=changes(DOWNSTREAM, ("model", "editor.direction")),
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
            Claim(
                says="Ability breaks before the norm is three times the unedited one.",
                source=OPEN,
                told="–",
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
