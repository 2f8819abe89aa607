"""What the runs of a report show, in sentences: whose edits took, who grew, who kept what, which alarms."""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.results.collection import Collection
from analysis.results.markdown import written
from analysis.results.outcome import mostly_missed
from analysis.results.run_folder import RunFolder
from analysis.results.tables import alarm_order, summary
from analysis.units import WORDS

_KEPT = (
    ("known_unedited", "Of the facts never edited the model still knows"),
    ("known_other", "Of other facts about edited subjects the model still knows"),
    ("downstream", "Share of right answers to tasks, at the end:"),
)
"""Columns of summary.csv with what a model keeps, the first that was measured counts, and their words."""


def conclusions(collection: Collection) -> list[str]:
    """One sentence each, from means over seeds at the end of the runs; none on what was not measured."""
    table = summary(collection)
    return [*_took(collection), *_grew(table), *_kept(table), *_alarmed(collection)]


def _took(collection: Collection) -> Iterator[str]:
    """A sentence if edits of a series did not take in most cases."""
    taken: dict[str, list[int]] = {}
    for run, series in collection.runs[["run", "series"]].itertuples(index=False):
        outcome = RunFolder(collection.folders[str(run)]).summary().get("outcome")
        if outcome and mostly_missed(outcome):
            sums = taken.setdefault(str(series), [0, 0])
            sums[0] += outcome["took"]
            sums[1] += outcome["checked"]
    if taken:
        counts = _listed([f"{series} {took:,} of {checked:,}" for series, (took, checked) in taken.items()])
        yield f"Most edits did not take, so that the rest says little about editing: {counts} took."


def _grew(table: pd.DataFrame) -> Iterator[str]:
    means = _by_series(table, "norm_ratio")
    if len(means):
        ratios = _listed([f"{written(ratio)} ({series})" for series, ratio in means.items()])
        yield f"The changed matrices end at this many times their norm: {ratios}."


def _kept(table: pd.DataFrame) -> Iterator[str]:
    for column, words in _KEPT:
        means = _by_series(table, column).sort_values(ascending=False, kind="stable")
        if len(means):
            shares = _listed([f"{share:.0%} ({series})" for series, share in means.items()])
            yield f"{words} {shares}."
            return


def _alarmed(collection: Collection) -> Iterator[str]:
    order = alarm_order(collection)
    if order.empty:
        return
    fired = order[order["fired"] > 0].sort_values("rank", kind="stable").drop_duplicates("series")
    first = [
        f"{row.signature} after {row.at:.4g} {WORDS[str(row.unit)]} ({row.series})"
        for row in fired.itertuples(index=False)
    ]
    if first:
        yield f"The first alarm: {_listed(first)}."


def _by_series(table: pd.DataFrame, column: str) -> pd.Series:
    """Means of a column over the runs of a series, smallest first; without those that have none."""
    return table.groupby("series")[column].mean().dropna().sort_values(kind="stable")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
