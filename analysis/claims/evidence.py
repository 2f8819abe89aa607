"""Numbers of a collection by run: ends, changes and contrasts, for claims and their tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from analysis.results.collection import Collection
from analysis.results.run_folder import RunFolder
from analysis.results.run_tables import read_table
from analysis.results.tables import rows_matching

Measure = Callable[["Evidence"], pd.DataFrame]
"""From the runs to a table with columns `case`, a label, and `value`, one row per repeat.

A measure that computes its own intervals returns one row per case, with columns `low`, `high` and `seeds`
(the number of runs) as well.
"""

Values = Callable[["Evidence"], pd.Series]
"""From the runs to one number per run; index `run`."""

SEQUENCE = ("editor", "batch_size", "edits", "model", "data")
"""Columns and settings that distinguish sequences of edits, apart from their seed."""
_REGULARIZER = re.compile(r"intervention(?:\.\w+)*?\.regularizers\.(\w+)\._target_")


@dataclass(frozen=True)
class Evidence:
    """The runs of one experiment as rows of a table, with the settings of each."""

    collection: Collection

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The columns of `Collection.runs` and `regularizers`, as "history, mpes"; index `run`."""
        runs = self.collection.runs.set_index("run")
        return runs.assign(regularizers=[", ".join(sorted(self._regularizers[run])) for run in runs.index])

    @cached_property
    def length(self) -> int:
        """Edits or steps of the longest run."""
        counts = self.collection.metrics["count"]
        return 0 if counts.empty else int(counts.max())

    def until(self, count: int) -> "Evidence":
        """The same runs as they were after so many edits or steps."""
        metrics = self.collection.metrics
        return Evidence(replace(self.collection, metrics=metrics[metrics["count"] <= count]))

    def setting(self, key: str) -> pd.Series:
        """The text of a setting for every run, empty if a run does not have it; index `run`."""
        values = {run: self.collection.settings[run].get(key, "") for run in self.runs.index}
        return pd.Series(values, dtype="str")

    def uses(self, regularizer: str) -> pd.Series:
        """Whether each run uses a regularizer; index `run`."""
        return pd.Series({run: regularizer in self._regularizers[run] for run in self.runs.index}, dtype=bool)

    def of_editor(self, values: pd.Series, editor: str) -> pd.Series:
        """The values, by run, of the runs of one editor."""
        return values[self.runs["editor"].reindex(values.index) == editor]

    def series(self, key: str) -> pd.DataFrame:
        """All rows of a metric in the order of measurement, with the columns of the tidy table."""
        metrics = self.collection.metrics
        return metrics[metrics["key"] == key]

    def table(self, name: str) -> pd.DataFrame:
        """The rows of a table of all runs that have it, such as `answers`, with their `run`."""
        rows: list[pd.DataFrame] = []
        for run, folder in self.collection.folders.items():
            path = folder / f"{name}.parquet"
            if path.exists():
                RunFolder(folder).verify(path.name)
                rows.append(pd.DataFrame(read_table(path)).assign(run=run))
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()

    def last(self, key: str) -> pd.Series:
        """The last value of a metric by run, finite or not."""
        return last_values(self.series(key), ["run"])

    def first(self, key: str) -> pd.Series:
        """The first value of a metric by run: that of the unedited model."""
        return self.series(key).drop_duplicates("run", keep="first").set_index("run")["value"]

    def change(self, key: str) -> pd.Series:
        """Last minus first value of a metric by run."""
        return self.last(key) - self.first(key)

    def mean(self, key: str) -> pd.Series:
        """Mean of a metric over the measurements of a run."""
        return self.series(key).groupby("run")["value"].mean()

    def sum(self, key: str) -> pd.Series:
        """Sum of a metric over the measurements of a run."""
        return self.series(key).groupby("run")["value"].sum()

    def matching(self, quantity: str, place: str) -> pd.DataFrame:
        """Rows whose key matches the patterns `quantity/place`, with a column for each named group."""
        return rows_matching(self.collection.metrics, quantity, place)

    def steady(self, key: str) -> pd.Series:
        """Share of measurements at which a metric is larger than before, by run; NaN is not larger."""
        rows = self.series(key)
        larger = rows["value"].groupby(rows["run"]).diff() > 0
        return larger[rows["run"].duplicated()].groupby(rows["run"]).mean()

    def partners(self, regularizer: str) -> pd.Series:
        """The other regularizers of every run, as "beside history, mpes"; empty for none; index `run`."""
        others = {run: sorted(self._regularizers[run] - {regularizer}) for run in self.runs.index}
        texts = {run: f"beside {', '.join(names)}" if names else "" for run, names in others.items()}
        return pd.Series(texts, dtype="str")

    def repeats(self, values: pd.Series, by: Sequence[str | pd.Series] = SEQUENCE) -> pd.DataFrame:
        """The table of a measure from values by run; the columns or settings `by` name the case."""
        return pd.DataFrame({"case": self.cases(by).reindex(values.index), "value": values}).reset_index(
            drop=True
        )

    def averages(self, numbers: Mapping[str, pd.Series], by: Sequence[pd.Series]) -> pd.DataFrame:
        """One row per group of runs: the values that it is grouped `by`, and the mean of every number."""
        return pd.DataFrame(numbers).groupby(list(by)).mean().reset_index()

    def cases(self, by: Sequence[str | pd.Series]) -> pd.Series:
        """The case of every run: columns, settings or texts `by`, joined, without those that never differ.

        Beside the editor, regularizers are named of editors that were run with several sets of them.
        """
        names = {each for each in by if isinstance(each, str)}
        labels = {name: self._labels(name) for name in names}
        if {"editor", "regularizers"} <= names:
            sets = self.runs.groupby("editor")["regularizers"].nunique()
            are_several = self.runs["editor"].map(sets) > 1
            labels["regularizers"] = labels["regularizers"].where(are_several, "")
        columns = [labels[each] if isinstance(each, str) else each for each in by]
        differing = [column for column in columns if column.nunique() > 1] or columns[:1]
        texts = zip(*(column.tolist() for column in differing), strict=True)
        return pd.Series([" · ".join(filter(None, text)) for text in texts], self.runs.index, dtype="str")

    def contrast(
        self,
        values: pd.Series,
        factor: pd.Series,
        *,
        within: Sequence[str | pd.Series],
        relative: bool = False,
    ) -> pd.Series:
        """Value with the factor minus value without it, by the run with it; `relative` divides by the latter.

        Pairs of runs agree in everything `within`: columns, settings, or texts by run. The factor is true,
        false, or missing for runs that are neither.
        """
        columns = [self._column(each) if isinstance(each, str) else each for each in within]
        table = pd.DataFrame({str(place): column.astype(str) for place, column in enumerate(columns)})
        table = table.assign(value=values, factor=factor, run=table.index)
        table = table[table.index.isin(values.index)].dropna(subset="factor")
        present = table["factor"].astype(bool)
        paired = table[present].merge(
            table[~present], on=[*map(str, range(len(columns)))], suffixes=("", "_without")
        )
        paired = paired.set_index("run")
        change = paired["value"] - paired["value_without"]
        return change / paired["value_without"] if relative else change

    def effect(self, values: pd.Series, regularizer: str, *, relative: bool = False) -> pd.Series:
        """`contrast` by a regularizer, of runs with the same sequence, seed and other regularizers."""
        within = (self.partners(regularizer), *SEQUENCE, "seed")
        return self.contrast(values, self.uses(regularizer), within=within, relative=relative)

    def effects(self, values: pd.Series, regularizer: str, *, relative: bool = False) -> pd.DataFrame:
        """`effect` in cases by sequence and by the other regularizers; the repeats are seeds."""
        differences = self.effect(values, regularizer, relative=relative)
        return self.repeats(differences, (*SEQUENCE, self.partners(regularizer)))

    def _labels(self, name: str) -> pd.Series:
        """A column or setting as text by run; numbers with their name, as "batch_size=10"."""
        texts = self._column(name).astype(str)
        is_number = pd.to_numeric(texts, errors="coerce").notna()
        return texts.where(~is_number, f"{name.rpartition('.')[2]}=" + texts)

    def _column(self, name: str) -> pd.Series:
        return self.runs[name] if name in self.runs else self.setting(name)

    @cached_property
    def _regularizers(self) -> dict[str, set[str]]:
        """Names of the regularizers of every run."""
        matches = {
            run: map(_REGULARIZER.match, settings) for run, settings in self.collection.settings.items()
        }
        return {run: {match[1] for match in each if match} for run, each in matches.items()}


def last_values(rows: pd.DataFrame, by: list[str]) -> pd.Series:
    """The last value in every group, finite or not."""
    return rows.drop_duplicates(by, keep="last").set_index(by)["value"]


def last(key: str, *, minus: float = 0.0) -> Values:
    """The last value of a metric less a constant, by run."""
    return lambda evidence: evidence.last(key) - minus


def change(key: str) -> Values:
    """Last minus first value of a metric, by run."""
    return lambda evidence: evidence.change(key)


def ends(key: str, by: Sequence[str] = SEQUENCE, *, minus: float = 0.0) -> Measure:
    """A measure: the last value of a metric less a constant, in cases by the columns or settings `by`."""
    return lambda evidence: evidence.repeats(evidence.last(key) - minus, by)


def changes(key: str, by: Sequence[str] = SEQUENCE) -> Measure:
    """A measure: last minus first value of a metric."""
    return lambda evidence: evidence.repeats(evidence.change(key), by)


def steadiness(key: str, by: Sequence[str] = SEQUENCE) -> Measure:
    """A measure: share of measurements at which a metric is larger than before."""
    return lambda evidence: evidence.repeats(evidence.steady(key), by)


def effects(key: str, regularizer: str, *, editor: str = "") -> Measure:
    """A measure: last value with a regularizer minus last value without it, of runs that differ in it alone.

    Of the runs of one editor, or of all.
    """

    def measure(evidence: Evidence) -> pd.DataFrame:
        values = evidence.last(key)
        return evidence.effects(evidence.of_editor(values, editor) if editor else values, regularizer)

    return measure
