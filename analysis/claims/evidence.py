"""Numbers of a collection by run: ends, changes and contrasts, for claims and their tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.results.collection import Collection
from analysis.results.tables import having

Measure = Callable[["Evidence"], pd.DataFrame]
"""From the runs to columns `case`, a label, and `value`, a row for every repeat.

Or a row for every case that has an interval of its own: `low` and `high` beside, and `seeds`, the runs in it.
"""

SEQUENCE = ("editor", "batch_size", "edits", "model", "data")
"""Columns and settings that tell sequences of edits apart, whatever their seed is."""
_REGULARIZER = re.compile(r"intervention(?:\.\w+)*?\.regularizers\.(\w+)\._target_")


@dataclass(frozen=True)
class Evidence:
    """The runs of one experiment as rows of a table, with what was chosen for each."""

    collection: Collection

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run, by run: the columns of `Collection.runs`, and `regularizers`, as "history, mpes"."""
        runs = self.collection.runs.set_index("run")
        return runs.assign(regularizers=[", ".join(sorted(self._regularizers[run])) for run in runs.index])

    def setting(self, key: str) -> pd.Series:
        """A setting's text for every run, empty where a run has none; index `run`."""
        values = {run: self.collection.settings[run].get(key, "") for run in self.runs.index}
        return pd.Series(values, dtype="str")

    def chosen(self, regularizer: str) -> pd.Series:
        """Whether a run was made with a regularizer; index `run`."""
        return pd.Series({run: regularizer in self._regularizers[run] for run in self.runs.index}, dtype=bool)

    def of_editor(self, values: pd.Series, editor: str) -> pd.Series:
        """Those of the values by run that belong to one editor."""
        return values[self.runs["editor"].reindex(values.index) == editor]

    def series(self, key: str) -> pd.DataFrame:
        """Every value of a metric in the order of measuring: the tidy table's columns."""
        metrics = self.collection.metrics
        return metrics[metrics["key"] == key]

    def last(self, key: str) -> pd.Series:
        """The last value of a metric by run, be it a number or not."""
        return final(self.series(key), ["run"])

    def first(self, key: str) -> pd.Series:
        """Its first value by run: that of the unedited model."""
        return self.series(key).drop_duplicates("run", keep="first").set_index("run")["value"]

    def change(self, key: str) -> pd.Series:
        """Last minus first value of a metric by run."""
        return self.last(key) - self.first(key)

    def mean(self, key: str) -> pd.Series:
        """Mean of a metric over the rows of a run that have it."""
        return self.series(key).groupby("run")["value"].mean()

    def sum(self, key: str) -> pd.Series:
        """Sum of a metric over the rows of a run."""
        return self.series(key).groupby("run")["value"].sum()

    def having(self, quantity: str, where: str) -> pd.DataFrame:
        """Rows whose key is `quantity/where`, both of them patterns, with a column for each named group."""
        return having(self.collection.metrics, quantity, where)

    def steady(self, key: str) -> pd.Series:
        """Share of measurements at which a metric is larger than at the one before, by run.

        What is no number is not larger.
        """
        rows = self.series(key)
        larger = rows["value"].groupby(rows["run"]).diff() > 0
        return larger[rows["run"].duplicated()].groupby(rows["run"]).mean()

    def beside(self, regularizer: str) -> pd.Series:
        """What every run has beside a regularizer, as "beside history, mpes"; empty for none; index `run`."""
        others = {run: sorted(self._regularizers[run] - {regularizer}) for run in self.runs.index}
        told = {run: f"beside {', '.join(names)}" if names else "" for run, names in others.items()}
        return pd.Series(told, dtype="str")

    def labelled(self, values: pd.Series, by: Sequence[str | pd.Series] = SEQUENCE) -> pd.DataFrame:
        """Repeats of cases from values by run: the case is what the columns or settings `by` say, joined."""
        return pd.DataFrame({"case": self.cases(by).reindex(values.index), "value": values}).reset_index(
            drop=True
        )

    def averages(self, numbers: Mapping[str, pd.Series], by: Sequence[pd.Series]) -> pd.DataFrame:
        """A row per group of runs: what they are grouped `by`, and the mean of every number by run."""
        return pd.DataFrame(numbers).groupby(list(by)).mean().reset_index()

    def cases(self, by: Sequence[str | pd.Series]) -> pd.Series:
        """What the columns, settings or texts `by` say of every run; what is the same for all is left out."""
        columns = [self._told(each) if isinstance(each, str) else each for each in by]
        shown = [column for column in columns if column.nunique() > 1] or columns[:1]
        texts = zip(*(column.tolist() for column in shown), strict=True)
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

        Runs are paired that agree in everything `within`: columns, settings, or texts by run. The factor
        holds true, false, or nothing for runs that are neither.
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
        """`contrast` by a regularizer, of sequences and seeds that are alike in all other regularizers."""
        same = (self.beside(regularizer), *SEQUENCE, "seed")
        return self.contrast(values, self.chosen(regularizer), within=same, relative=relative)

    def effects(self, values: pd.Series, regularizer: str, *, relative: bool = False) -> pd.DataFrame:
        """`effect` in cases by sequence and by the other regularizers beside it; the repeats are seeds."""
        found = self.effect(values, regularizer, relative=relative)
        return self.labelled(found, (*SEQUENCE, self.beside(regularizer)))

    def _told(self, name: str) -> pd.Series:
        """A column or setting for people: numbers with what they are."""
        texts = self._column(name).astype(str)
        is_number = pd.to_numeric(texts, errors="coerce").notna()
        return texts.where(~is_number, f"{name.rpartition('.')[2]}=" + texts)

    def _column(self, name: str) -> pd.Series:
        return self.runs[name] if name in self.runs else self.setting(name)

    @cached_property
    def _regularizers(self) -> dict[str, set[str]]:
        """By run the names of its regularizers."""
        matches = {
            run: map(_REGULARIZER.match, settings) for run, settings in self.collection.settings.items()
        }
        return {run: {match[1] for match in found if match} for run, found in matches.items()}


def final(rows: pd.DataFrame, by: list[str]) -> pd.Series:
    """The value that was measured last in every group, be it a number or not."""
    return rows.drop_duplicates(by, keep="last").set_index(by)["value"]


def ends(key: str, by: Sequence[str] = SEQUENCE, *, minus: float = 0.0) -> Measure:
    """A measure: the last value of a metric, less a constant, in cases by the columns or settings `by`."""
    return lambda evidence: evidence.labelled(evidence.last(key) - minus, by)


def changes(key: str, by: Sequence[str] = SEQUENCE) -> Measure:
    """A measure: last minus first value of a metric."""
    return lambda evidence: evidence.labelled(evidence.change(key), by)


def steadiness(key: str, by: Sequence[str] = SEQUENCE) -> Measure:
    """A measure: share of measurements at which a metric is larger than before."""
    return lambda evidence: evidence.labelled(evidence.steady(key), by)


def effects(key: str, regularizer: str) -> Measure:
    """A measure: last value with a regularizer minus that without it, of runs that differ by it alone."""
    return lambda evidence: evidence.effects(evidence.last(key), regularizer)
