"""At which norm each ability breaks, when nothing but the norm of one place grows."""

from collections.abc import Iterator

import pandas as pd

from analysis.breaks import Break, change_point
from analysis.claims import Claim
from analysis.evidence import Evidence, changes
from analysis.studies.study import DOWNSTREAM, EDITED, KNOWN, OPEN, Study, Table

_STATIC = "norm/frobenius_ratio/static"


def _against_static(evidence: Evidence, key: str) -> pd.DataFrame:
    """Rows of a metric with `ratio`, edited over static norm ratio at the same moment."""
    at = ["run", "part", "count"]
    edited = evidence.series(EDITED).set_index(at)["value"]
    static = evidence.series(_STATIC).set_index(at)["value"].reindex(edited.index)
    # a static matrix keeps its norm between two whole measurements
    ratio = (edited / static.groupby("run").ffill()).rename("ratio")
    return evidence.series(key).merge(ratio.reset_index(), on=at)


def _breaks(evidence: Evidence) -> Iterator[tuple[str, str, float, Break | None]]:
    """Case, metric, largest ratio and change-point of every model and kind of growth."""
    keys = evidence.having("downstream/(?P<task>.+)", "acc")["key"].unique().tolist()
    for key in [*sorted(keys), *((KNOWN,) if len(evidence.series(KNOWN)) else ())]:
        rows = _against_static(evidence, key)
        cases = rows["run"].map(evidence.cases(("model", "editor.direction")))
        for case, group in rows.groupby(cases):
            runs = [run for _, run in group.groupby("run")]
            found = change_point(
                [run["ratio"].to_numpy() for run in runs], [run["value"].to_numpy() for run in runs]
            )
            yield str(case), key, float(group["ratio"].max()), found


def _break_table(evidence: Evidence) -> pd.DataFrame:
    rows = [
        {
            "growth of": case,
            "metric": key,
            "breaks at": found.at if found else float("nan"),
            "low": found.low if found else float("nan"),
            "high": found.high if found else float("nan"),
            "before": found.level if found else float("nan"),
            "after": found.floor if found else float("nan"),
            "explained": found.explained if found else float("nan"),
            "up to": furthest,
        }
        for case, key, furthest, found in _breaks(evidence)
    ]
    return pd.DataFrame(rows)


def _break_of_runs(evidence: Evidence) -> pd.DataFrame:
    """The change-point of the mean downstream accuracy in every run, infinity where it does not fall."""
    found = {}
    for run, rows in _against_static(evidence, DOWNSTREAM).groupby("run"):
        point = change_point([rows["ratio"].to_numpy()], [rows["value"].to_numpy()], samples=1)
        found[str(run)] = point.at if point else float("inf")
    return evidence.labelled(pd.Series(found, dtype=float), ("model", "editor.direction"))


STUDIES = (
    Study(
        name="threshold",
        question="At which norm of the edited matrices, over that of the others, does each ability break?",
        claims=(
            Claim(
                says="Localized norm growth alone, without any edit, costs downstream ability.",
                source=OPEN,
                told="–",
                quantity="mean downstream accuracy, at the end minus at the start",
                measure=changes(DOWNSTREAM, ("model", "editor.direction")),
                side="below",
                threshold=0.0,
            ),
            Claim(
                says="Ability breaks before the norm is three times the unedited one.",
                source=OPEN,
                told="–",
                quantity="norm ratio of edited over static matrices at which the mean downstream accuracy "
                "begins to fall; a run in which it does not fall counts against it",
                measure=_break_of_runs,
                side="below",
                threshold=3.0,
            ),
        ),
        figures=("ability", "downstream"),
        series=("model", "editor.direction"),
        tables=(Table(title="Change-points with 95 % bootstrap intervals", build=_break_table),),
    ),
)
