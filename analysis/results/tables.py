"""Tables made of a collection: one row per run or series, means over seeds, differences of configuration."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd

from analysis.metrics import Metric, metrics
from analysis.results.collection import Collection, varying_keys
from analysis.results.former_targets import comparable
from analysis.statistics.intervals import over_seeds
from analysis.units import WORDS, counted

_COLUMNS = (
    "es", "ps", "ns", "score", "retention", "known_other", "known_unedited", "downstream", "norm_ratio",
    "activation_late", "probe", "perplexity", "entropy", "train_loss",
)  # fmt: skip
"""Score columns of summary.csv whose order is fixed; those of other metrics follow."""
_FIRST = ("series", "edits", "steps", "tokens", "train_loss", "es", "ps", "ns", "retention", "known_unedited")
"""Columns of the table per series whose order differs from that of summary.csv."""
_SCORED: Mapping[str, Metric] = MappingProxyType(
    {
        metric.column: metric
        for metric in sorted(metrics(), key=lambda one: (*_COLUMNS, one.column).index(one.column))
        if metric.column
    }
)

SCORES: Mapping[str, str] = MappingProxyType({column: metric.key for column, metric in _SCORED.items()})
"""Columns of summary.csv and the metric whose last value they hold."""

_NAMES = {
    **{"series": "editor", "edits": "edits", "steps": "steps", "tokens": "tokens"},
    **{column: metric.heading for column, metric in _SCORED.items() if metric.heading},
    "seconds": "seconds",
}

HEADINGS: Mapping[str, str] = MappingProxyType(
    {column: _NAMES[column] for column in dict.fromkeys([*_FIRST, *_NAMES])}
)
"""Columns of the table per series, in order, with their headings."""

NARROW = tuple(column for column in HEADINGS if column not in ("activation_late", "perplexity", "entropy"))
"""Columns that fit a terminal."""

_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("edits", "steps", "tokens", "seed"), "{:.0f}"),
        **{column: metric.format for column, metric in _SCORED.items()},
        "seconds": "{:.1f}",
    }
)
"""Formats of numbers by column; the others are shares, with three digits."""

MISSING = "–"
_BEFORE = re.compile(r"^(edit/\w+)/before\b")
_FORMULA = re.compile(r"[=@\t\r]|[+-](?!(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$)")


def summary(collection: Collection) -> pd.DataFrame:
    """The content of summary.csv: one row per finished run with its identity, last scores and alarms."""
    runs = collection.runs.set_index("run")
    table = runs.drop(columns="seconds").join(_scores(collection.metrics, SCORES, keep="last"))
    fired = alarms_of(collection.metrics)
    alarms = (fired["signature"] + " after " + fired["words"]).groupby(fired["run"]).agg(", ".join)
    return table.assign(alarms=alarms.reindex(runs.index).fillna(""), seconds=runs["seconds"]).reset_index()


def alarms_of(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every alarm, in the order in which a run raised them.

    Columns: run, series, seed, signature, `at` (the count), `unit`, `words` (both as text) and `moment`,
    which orders the alarms of a run. Older runs log `edits` instead of `at`.
    """
    rows = _in_order(rows_matching(metrics, "alarm", r"(?P<signature>[^/]+)/(?:at|edits)"), metrics)
    words = [counted(count, unit) for count, unit in rows[["count", "unit"]].itertuples(index=False)]
    table = rows.assign(at=rows["count"], words=pd.Series(words, rows.index, "str"))
    columns = ["run", "series", "seed", "signature", "at", "unit", "words", "moment"]
    return table[columns].sort_values(["moment", "signature"], ignore_index=True)


def _in_order(rows: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of the metrics with the place of their moment among those of the run; parts may alternate."""
    moments = metrics[["run", "part", "count"]].drop_duplicates()
    moments = moments.assign(moment=moments.groupby("run").cumcount())
    return rows.merge(moments, on=["run", "part", "count"])


def alarm_order(collection: Collection) -> pd.DataFrame:
    """The order of alarms: one row per series and signature that any run raised.

    Columns: series, signature, fired (runs in which it fired), runs (of the series), at (mean count over the
    runs in which it fired), unit (of the series) and rank (mean place in the order of the run's alarms, 1
    first; equal counts share a place); NaN if it never fired.
    """
    fired = alarms_of(collection.metrics)
    fired = fired.assign(rank=fired.groupby("run")["moment"].rank(method="average"))
    series = collection.metrics.groupby("series", sort=False)
    runs, units = series["run"].nunique().rename("runs"), series["unit"].first()
    signatures = fired.groupby("signature")["at"].mean().sort_values(kind="stable").index
    pairs = pd.MultiIndex.from_product([runs.index, signatures], names=["series", "signature"])
    groups = fired.groupby(["series", "signature"])
    table = groups.agg(fired=("run", "nunique"), at=("at", "mean"), rank=("rank", "mean")).reindex(pairs)
    table = table.reset_index().astype({"fired": "float"}).fillna({"fired": 0.0}).astype({"fired": int})
    table.insert(3, "runs", table["series"].map(runs))
    table.insert(5, "unit", table["series"].map(units))
    return table


def alarm_order_text(collection: Collection) -> pd.DataFrame:
    """`alarm_order` as text: the order of alarms of every series, and in how many runs each fired."""
    table = alarm_order(collection)
    return pd.DataFrame(
        {
            kind(collection.runs): table["series"],
            "alarm": table["signature"],
            "runs": [f"{fired} of {runs}" for fired, runs in zip(table["fired"], table["runs"], strict=True)],
            "mean count": [
                f"{at:.4g} {WORDS[unit]}" if np.isfinite(at) else "never"
                for at, unit in table[["at", "unit"]].itertuples(index=False)
            ],
            "mean place": [f"{rank:.3g}" if np.isfinite(rank) else MISSING for rank in table["rank"]],
        }
    )


def per_series(collection: Collection, columns: Sequence[str] = tuple(HEADINGS)) -> pd.DataFrame:
    """Means over seeds as text, in columns of `HEADINGS` that some run measured.

    Three seeds or more are followed by ± half their 95 % interval, of two it is the range. The first row of
    each model holds the figures of the unedited model if they were measured.
    """
    table = summary(collection)
    rows = pd.concat([_unedited(collection, SCORES), table], ignore_index=True)
    idle = () if not table[["steps", "tokens"]].to_numpy().any() else ("edits",)
    idle = [column for column in (*idle, "steps", "tokens") if not table[column].any()]
    columns = [c for c in columns if c not in ("series", *idle) and rows[c].notna().any()]
    text = means_as_text(rows, columns)
    repeats = table.groupby("series").size()
    if repeats.max() > 1:
        text.insert(1, "seeds", [str(repeats.get(series, MISSING)) for series in text["series"]])
    return text.rename(columns={**HEADINGS, "series": kind(collection.runs)})


def last_values(collection: Collection, keys: Sequence[str]) -> pd.DataFrame:
    """The last values of metrics as text, one row per series and one column per key, as in `per_series`.

    A metric without a row in the table of metrics has four significant digits, because its scale is unknown.
    """
    columns = {key: key for key in keys}
    runs = collection.runs.set_index("run")[["series"]]
    ends = runs.join(_scores(collection.metrics, columns, keep="last"))
    text = means_as_text(pd.concat([_unedited(collection, columns), ends], ignore_index=True), keys)
    return text.rename(columns={"series": kind(collection.runs)})


def means_as_text(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means of these columns over the rows of a series, with their scatter; the first column is `series`."""
    cells = _means(rows, columns)
    parts = ["column", "mean", "high", "seeds", "min", "max"]
    cells["text"] = [_cell(*row) for row in cells[parts].itertuples(index=False)]
    text = cells.pivot(index="series", columns="column", values="text").reindex(
        index=rows["series"].unique(), columns=list(columns), fill_value=MISSING
    )
    return text.fillna(MISSING).rename_axis(columns=None).reset_index()


def best(collection: Collection) -> dict[str, tuple[str, frozenset[str]]]:
    """By heading of `per_series`: the direction that is better, ↑ or ↓, and the series with the best mean.

    Only of metrics of which one direction is better; no series if there are fewer than two.
    """
    better = {
        column: _SCORED[column].better for column in HEADINGS if column in _SCORED and _SCORED[column].better
    }
    found = leaders(summary(collection), better)
    return {HEADINGS[column]: (better[column], series) for column, series in found.items()}


def leaders(rows: pd.DataFrame, better: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """By column of `better`, which says ↑ or ↓, the series with the best mean; none if there is only one."""
    means = _means(rows, [column for column in better if rows[column].notna().any()])
    found: dict[str, frozenset[str]] = {}
    for column, each in means.groupby("column"):
        top = each["mean"].max() if better[str(column)] == "↑" else each["mean"].min()
        first = each.loc[each["mean"] == top, "series"] if len(each) > 1 else []
        found[str(column)] = frozenset(map(str, first))
    return found


def kind(runs: pd.DataFrame) -> str:
    """The heading of the series: `editor` if all runs have one, else `intervention`."""
    return "editor" if runs["editor"].astype(bool).all() else "intervention"


def alarm_list(collection: Collection) -> pd.DataFrame:
    """Every alarm of every run with its sentence, as text."""
    fired = alarms_of(collection.metrics).sort_values(["series", "seed", "moment"], kind="stable")
    sentences = [
        collection.sentences[run].get(signature, f"{signature} after {words}")
        for run, signature, words in fired[["run", "signature", "words"]].itertuples(index=False)
    ]
    columns = {"seed": fired["seed"].astype(str), "run": fired["run"], "alarm": sentences}
    return pd.DataFrame({kind(collection.runs): fired["series"], **columns})


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its numbers as text, written as in `per_series`."""
    cells = {
        str(name): [_written(str(name), v) if isinstance(v, int | float) else str(v) for v in values.tolist()]
        for name, values in table.items()
    }
    return pd.DataFrame(cells)


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table for a CSV file: an apostrophe before each text that a spreadsheet would compute.

    Such a text begins with `=`, `+`, `-`, `@` or a tab and is no number.
    """
    return table.map(lambda cell: f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell)


def differing_settings(collection: Collection) -> pd.DataFrame:
    """Configuration keys in which the runs differ: one column per series, its values joined."""
    keys = varying_keys(collection.settings.values())
    columns = {
        str(series): [_joined(collection.settings[run].get(key, MISSING) for run in runs) for key in keys]
        for series, runs in collection.runs.groupby("series", sort=False)["run"]
    }
    return pd.DataFrame({"setting": keys} | columns)


def values_by_key(trees: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Columns key and value: every key of the flattened trees of the runs, with all its values."""
    keys = sorted({key for tree in trees.values() for key in tree})
    values = [_joined(_distinct(key, (tree[key] for tree in trees.values() if key in tree))) for key in keys]
    return pd.DataFrame({"key": keys, "value": values})


def _scores(
    metrics: pd.DataFrame, columns: Mapping[str, str], *, keep: Literal["first", "last"]
) -> pd.DataFrame:
    """The first or last measured value of the metric of each column: one row per run."""
    rows = metrics[metrics["key"].isin(columns.values())]
    scored = _in_order(rows, metrics).sort_values("moment", kind="stable")
    scored = scored.drop_duplicates(["run", "key"], keep=keep)
    wide = scored.pivot(index="run", columns="key", values="value").rename_axis(columns=None)
    return wide.reindex(columns=list(columns.values())).set_axis(list(columns), axis=1)


def _unedited(collection: Collection, columns: Mapping[str, str]) -> pd.DataFrame:
    """One row per model with the metrics at the start; without the wall time, which is that of a run."""
    metrics = collection.metrics
    start = metrics[(metrics["part"] == 0) & (metrics["count"] == 0)]
    # facts that were edited later were scored as a scope of their own
    start = start.assign(key=start["key"].str.replace(_BEFORE, r"\1/seen", regex=True))
    rows = _scores(start, columns, keep="first").dropna(how="all")
    models = collection.runs.set_index("run")["model"].reindex(rows.index)
    rows = rows.groupby(models).mean().reset_index(names="model")
    label = "unedited" if len(rows) == 1 else "unedited · " + rows["model"]
    return rows.assign(series=label, edits=0, steps=0, tokens=0)


def _means(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The means of these columns over the rows of a series, as `over_seeds` gives them, and min and max."""
    long = rows.melt(id_vars="series", value_vars=list(columns), var_name="column", value_name="value")
    long = long.astype({"value": float})
    by = ["series", "column"]
    ends = long[np.isfinite(long["value"])].groupby(by)["value"].agg(["min", "max"]).reset_index()
    return over_seeds(long, by=by).merge(ends, on=by)


def _cell(column: str, mean: float, high: float, seeds: int, smallest: float, largest: float) -> str:
    if seeds == 2 and largest > smallest:
        return f"{_written(column, smallest)}–{_written(column, largest)}"
    half = f" ± {_written(column, high - mean)}" if high > mean else ""
    return _written(column, mean) + half


def _written(column: str, value: int | float) -> str:
    default = "{:.4g}" if "/" in column else "{:.3f}"  # a key, or a share
    return _FORMATS.get(column, default).format(value) if np.isfinite(value) else MISSING


def _distinct(key: str, values: Iterable[str]) -> Iterable[str]:
    """The first of all values that count as equal."""
    first: dict[str, str] = {}
    for value in values:
        first.setdefault(comparable(key, value), value)
    return first.values()


def _joined(values: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(values))


def rows_matching(metrics: pd.DataFrame, quantity: str, where: str) -> pd.DataFrame:
    """Rows whose key matches `quantity/where`, two patterns, with one column per named group."""
    # a long run has far more rows than keys
    keys = pd.Series(metrics["key"].unique(), dtype="str")
    groups = keys.str.extract(f"^(?P<_whole>{quantity}/{where})$")
    matches = groups.dropna(subset="_whole").rename(columns={"_whole": "key"})
    return metrics[metrics["key"].isin(matches["key"])].merge(matches, on="key")
