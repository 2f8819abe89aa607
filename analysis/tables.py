"""Tables made of a collection: a row per run or series, means over seeds, differences of configuration."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.collect import Collection, varying_keys

CONFIDENCE = 0.95

SCORES: Mapping[str, str] = MappingProxyType(
    {
        "es": "edit/success/seen.rewrite",
        "ps": "edit/success/seen.paraphrase",
        "ns": "edit/success/seen.neighbour",
        "score": "edit/score/seen",
        "retention": "edit/success/first50.rewrite",
        "known_other": "edit/known/other",
        "known_unedited": "edit/known/unedited",
        "downstream": "downstream/mean/acc",
        "norm_ratio": "norm/frobenius_ratio/edited",
    }
)
"""Columns of summary.csv and the metric whose last value they hold."""

HEADINGS: Mapping[str, str] = MappingProxyType(
    {
        "series": "editor",
        "edits": "edits",
        "es": "ES",
        "ps": "PS",
        "ns": "NS",
        "retention": "first 50",
        "known_unedited": "never edited",
        "known_other": "other facts",
        "downstream": "downstream",
        "norm_ratio": "norm ratio",
        "seconds": "seconds",
    }
)
"""Columns of the table that is printed, in order, with their headings."""

_FORMATS: Mapping[str, str] = MappingProxyType(
    {"edits": "{:.0f}", "seed": "{:.0f}", "seconds": "{:.1f}", "norm_ratio": "{:#.4g}"}
)
"""How a column's numbers are written; the others are shares, with three digits."""

MISSING = "–"


def over_seeds(values: pd.DataFrame, *, by: Sequence[str], log: bool = False) -> pd.DataFrame:
    """Mean and 95 % interval of `value` in every group; columns: `by`, mean, low, high, count.

    mean ± t(0.975, n − 1) s / √n with Student's t, since seeds are few; a single value has low = mean = high.
    With `log` the same of the logarithms (geometric mean), for what grows exponentially: such an interval
    stays positive. Values that are not finite are left out.
    """
    given = values.loc[np.isfinite(values["value"]), [*by, "value"]]
    if log:
        given = given[given["value"] > 0].assign(value=lambda rows: np.log(rows["value"]))
    groups = given.groupby(list(by), sort=False)["value"]
    table = groups.agg(["mean", "std", "count"]).reset_index()
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, df=np.maximum(table["count"] - 1, 1))
    half = quantile * table["std"].fillna(0.0) / np.sqrt(table["count"])
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)[
        [*by, "mean", "low", "high", "count"]
    ]
    return table.assign(**{name: np.exp(table[name]) for name in ("mean", "low", "high")}) if log else table


def summary(collection: Collection) -> pd.DataFrame:
    """The content of summary.csv: a row per finished run, what it was and the last value of every score."""
    runs = collection.runs.set_index("run")
    table = runs.drop(columns="seconds").join(_scores(collection.metrics, keep="last"))
    return table.assign(seconds=runs["seconds"]).reset_index()


def per_series(collection: Collection) -> pd.DataFrame:
    """The printed table as text: per editor the mean, with several seeds ± half the interval.

    A first row per model gives the unedited model's figures, where they were measured.
    """
    table = summary(collection)
    columns = [column for column in HEADINGS if column != "series"]
    rows = pd.concat([_unedited(collection), table], ignore_index=True)
    long = rows.melt(id_vars="series", value_vars=columns, var_name="column", value_name="value")
    cells = over_seeds(long.astype({"value": float}), by=("series", "column"))
    cells["text"] = [_cell(*row) for row in cells[["column", "mean", "high"]].itertuples(index=False)]
    text = cells.pivot(index="series", columns="column", values="text").reindex(
        index=rows["series"].unique(), columns=columns, fill_value=MISSING
    )
    text = text.fillna(MISSING).rename_axis(columns=None).reset_index()
    repeats = table.groupby("series").size()
    if repeats.max() > 1:
        text.insert(1, "seeds", [str(repeats.get(series, MISSING)) for series in text["series"]])
    return text.rename(columns=dict(HEADINGS))


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every number written out as in `per_series`, for people."""
    cells = {
        str(name): [_written(str(name), v) if isinstance(v, int | float) else str(v) for v in values.tolist()]
        for name, values in table.items()
    }
    return pd.DataFrame(cells)


def differing_settings(collection: Collection) -> pd.DataFrame:
    """Configuration keys in which the runs differ, a column per series (several values of one joined)."""
    keys = varying_keys(collection.settings.values())
    columns = {
        str(series): [_joined(collection.settings[run].get(key, MISSING) for run in runs) for key in keys]
        for series, runs in collection.runs.groupby("series", sort=False)["run"]
    }
    return pd.DataFrame({"setting": keys} | columns)


def values_by_key(trees: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Columns key and value: for every key of the runs' flattened trees the values that occur."""
    keys = sorted({key for tree in trees.values() for key in tree})
    values = [_joined(tree[key] for tree in trees.values() if key in tree) for key in keys]
    return pd.DataFrame({"key": keys, "value": values})


def _scores(metrics: pd.DataFrame, *, keep: Literal["first", "last"]) -> pd.DataFrame:
    """The first or last measured value of every score, a row per run."""
    chosen = metrics[metrics["key"].isin(SCORES.values())].sort_values("edits", kind="stable")
    chosen = chosen.drop_duplicates(["run", "key"], keep=keep)
    wide = chosen.pivot(index="run", columns="key", values="value").rename_axis(columns=None)
    return wide.reindex(columns=list(SCORES.values())).set_axis(list(SCORES), axis=1)


def _unedited(collection: Collection) -> pd.DataFrame:
    """One row per model with the figures of step 0; the wall time of a run is not the unedited model's."""
    start = collection.metrics[collection.metrics["edits"] == 0]
    rows = _scores(start, keep="first").dropna(how="all")
    models = collection.runs.set_index("run")["model"].reindex(rows.index)
    rows = rows.groupby(models).mean().reset_index(names="model")
    label = "unedited" if len(rows) == 1 else "unedited · " + rows["model"]
    return rows.assign(series=label, edits=0)


def _cell(column: str, mean: float, high: float) -> str:
    half = f" ± {_written(column, high - mean)}" if high > mean else ""
    return _written(column, mean) + half


def _written(column: str, value: int | float) -> str:
    return _FORMATS.get(column, "{:.3f}").format(value) if np.isfinite(value) else MISSING


def _joined(values: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(values))
