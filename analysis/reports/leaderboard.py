"""Compares editors over all runs that were kept: a page without network, and the same numbers as CSV.

Runs are compared where they write as many of the same facts into the same model; each such group is a table,
with the editors of the best score first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from analysis.reports.html_page import html_page
from analysis.results.collection import Collection, collect_by
from analysis.results.run_folder import runs_in
from analysis.results.tables import HEADINGS, leaders, means_as_text, summary, without_formulas
from editors.errors import DataError

GROUP = ("model", "data", "edits")
"""Columns of a run in which those of a table agree."""
_LAST: Mapping[str, str] = MappingProxyType(
    {
        "first_choice": "edit/written/rewrite.first_choice",
        "written": "edit/written/rewrite.exact",
        "same_text": "edit/written/unrelated.same",
        "restorable": "edit/hushed/restored",
        "memory": "memory/peak_rss/gib",
    }
)
"""Columns that only this page has, with the metric whose last value they hold."""
_SECONDS = "time/step/seconds"
_BETTER: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("score", "es", "ps", "ns", "first_choice", "written", "same_text"), "↑"),
        **dict.fromkeys(("known_unedited", "downstream"), "↑"),
        "functional": "↓",
        "norm_ratio": "",
        "restorable": "↓",
        **dict.fromkeys(("seconds_per_edit", "memory"), "↓"),
    }
)
"""The numbers of a table in their order, with the better direction if there is one."""
_HEADINGS: Mapping[str, str] = MappingProxyType(
    {
        **HEADINGS,
        "series": "editor",
        "score": "score",
        "first_choice": "first choice",
        "written": "written",
        "same_text": "same text",
        "restorable": "restorable",
        "seconds_per_edit": "s per edit",
        "memory": "peak GiB",
    }
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A table of the page."""

    title: str
    table: pd.DataFrame
    """Means over seeds as text, under headings."""
    best: Mapping[str, tuple[str, frozenset[str]]]
    """By heading, the better direction and the editors with the best mean."""


def write_leaderboard(roots: Sequence[Path], folder: Path) -> Path:
    """Write leaderboard.html, and leaderboard.csv with one row per run; returns the page's path.

    Roots hold the folders of experiments; a run found in several counts once.

    Raises:
        DataError: if no run that edits is finished there.
    """
    groups = {
        values: editing
        for values, collection in collect_by(GROUP, *_experiments(roots)).items()
        if len(editing := scores(collection))
    }
    if not groups:
        raise DataError(f"no finished run in {' and '.join(map(str, roots))} edits facts")
    groups = dict(sorted(groups.items(), key=lambda item: (*item[0][:2], -int(str(item[0][2])))))
    folder.mkdir(parents=True, exist_ok=True)
    every = pd.concat(list(groups.values()), ignore_index=True)
    without_formulas(every).to_csv(
        folder / "leaderboard.csv", index=False, float_format="%.6g", lineterminator="\n"
    )
    page = folder / "leaderboard.html"
    tables = [group_of(rows) for rows in groups.values()]
    page.write_text(html_page("leaderboard.html.j2", groups=tables), encoding="utf-8")
    return page


def scores(collection: Collection) -> pd.DataFrame:
    """One row per run with an editor: what identifies it, and its numbers at its end.

    An editor of a model in four bits is another series than that of the whole model. `seconds_per_edit` is
    the mean time of a step that was measured over the size of a batch.
    """
    table = summary(collection).set_index("run")
    metrics = collection.metrics
    for column, key in _LAST.items():
        table[column] = metrics[metrics["key"] == key].groupby("run")["value"].last()
    sizes = pd.Series({run: one.get("batch_size") for run, one in collection.settings.items()}, dtype=object)
    sizes = pd.to_numeric(sizes, errors="coerce")
    table["seconds_per_edit"] = metrics[metrics["key"] == _SECONDS].groupby("run")["value"].mean() / sizes
    table["series"] = [
        _with_bits(series, collection.settings[str(run)].get("model.bits", "null"))
        for run, series in table["series"].items()
    ]
    editing = table[table["editor"].astype(bool)].reset_index()
    return editing[[*GROUP, "series", "seed", *_BETTER, "alarms", "name", "run"]]


def _with_bits(series: str, bits: str) -> str:
    """The series, which names the bits only where it has to be told from another of the same editor."""
    return series if bits == "null" or "model.bits" in series else f"{series}, model.bits={bits}"


def _experiments(roots: Sequence[Path]) -> list[Path]:
    """These folders as far as they are of experiments, and those of experiments in them.

    Raises:
        DataError: for a folder that is none and has none.
    """
    found: list[Path] = []
    for root in roots:
        if not root.is_dir():
            raise DataError(f"there is no folder {root}: name one such as outputs or docs/facts")
        inside = [folder for folder in (root, *sorted(root.iterdir())) if runs_in(folder)]
        if not inside:
            raise DataError(f"{root} holds no experiments: name a folder such as outputs or docs/facts")
        found += inside
    return found


def group_of(rows: pd.DataFrame) -> Group:
    """The table of runs that write as many of the same facts into the same model; rows as of `scores`."""
    model, data, edits = rows.iloc[0][list(GROUP)]
    columns = [column for column in _BETTER if rows[column].notna().any()]
    text = means_as_text(rows, columns)
    means = rows.groupby("series")[columns].mean()
    first = means.sort_values(columns[0], ascending=False, kind="stable").index
    text = text.set_index("series").loc[first].reset_index()
    text.insert(1, "seeds", text["series"].map(rows.groupby("series").size()).astype(str))
    found = leaders(rows, {column: better for column in columns if (better := _BETTER[column])})
    return Group(
        title=f"{model} · {data} · {edits:,} edits",
        table=text.rename(columns=dict(_HEADINGS)),
        best={_HEADINGS[column]: (_BETTER[column], editors) for column, editors in found.items()},
    )
