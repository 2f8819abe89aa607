"""From rows of the tidy table to the lines of a chart."""

from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.charts import NEUTRAL, PALETTE, Line, Panel, Style
from analysis.tables import over_seeds


def palette(metrics: pd.DataFrame) -> dict[str, str]:
    """A colour per series, the same in every figure of the table."""
    names = metrics["series"].unique()
    return {str(name): PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def panels(candidates: Iterable[tuple[str, Sequence[Line]]]) -> tuple[Panel, ...]:
    """A panel for every title that has lines."""
    return tuple(Panel(title=title, lines=tuple(lines)) for title, lines in candidates if lines)


def curves(metrics: pd.DataFrame, key: str, *, style: Style = "solid", log: bool = False) -> list[Line]:
    """A line per series: the metric `key` against edits, means over seeds (geometric with `log`)."""
    return series_lines(metrics[metrics["key"] == key], palette(metrics), style=style, log=log)


def series_lines(
    rows: pd.DataFrame, colours: dict[str, str], *, style: Style = "solid", log: bool = False
) -> list[Line]:
    """A line per series: `value` of the rows against edits."""
    points = over_seeds(rows, by=("series", "edits"), log=log)
    found = set(points["series"])
    return [
        _line(points[points["series"] == name], "edits", label=name, colour=colour, style=style)
        for name, colour in colours.items()
        if name in found
    ]


def by_layer(metrics: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Rows whose key is `prefix<site>.<layer>`, with columns site and layer."""
    rows = metrics[metrics["key"].str.startswith(prefix)]
    where = rows["key"].str.removeprefix(prefix).str.extract(r"^(?P<site>[^.]+)\.(?P<layer>\d+)$")
    return rows.join(where).dropna(subset=["site", "layer"]).astype({"layer": int})


def changed_sites(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Kinds of matrix whose norm moved in some run by more than rounding; all of them where none did."""
    both = before.merge(after, on=["run", "site", "layer"], suffixes=("_before", "_after"))
    moved = both[(both["value_after"] / both["value_before"] - 1).abs() > 1e-5]
    return sorted((moved if len(moved) else both)["site"].unique())


def layer_lines(
    before: pd.DataFrame, after: pd.DataFrame, *, edited: pd.DataFrame, colours: dict[str, str]
) -> list[Line]:
    """Value against layer: grey per unedited model, then a line per series, dots at edited layers."""
    starts = over_seeds(before, by=("model", "layer"), log=True)
    models = starts["model"].unique()
    lines = []
    for model in models:
        label = "unedited" if len(models) == 1 else f"unedited · {model}"
        lines.append(_line(starts[starts["model"] == model], "layer", label=label, colour=NEUTRAL))
    ends = over_seeds(after, by=("series", "layer"), log=True)
    for name in ends["series"].unique():
        dots = frozenset(edited.loc[edited["series"] == name, "layer"].astype(float))
        points = ends[ends["series"] == name]
        lines.append(_line(points, "layer", label=name, colour=colours[name], marked=dots))
    return lines


def growth_terms(metrics: pd.DataFrame) -> pd.DataFrame:
    """Per run, `term` and edits: the cumulated term over ‖W₀‖², both summed over the edited matrices.

    Runs are left out in which the terms do not add up to the growth, because not every step logged them.
    """
    terms = pd.concat(
        [by_layer(metrics, f"norm/{term}/").assign(term=term) for term in ("growth_cross", "growth_square")]
    )
    norms = by_layer(metrics, "norm/frobenius/").assign(value=lambda rows: rows["value"] ** 2)
    if terms.empty or norms.empty:
        return terms.iloc[:0]
    matrix = ["run", "site", "layer"]
    norms = norms.merge(terms[matrix].drop_duplicates(), on=matrix).sort_values("edits", kind="stable")
    before = norms.drop_duplicates(matrix, keep="first").groupby("run")["value"].sum()
    after = norms.drop_duplicates(matrix, keep="last").groupby("run")["value"].sum()
    summed = terms.groupby(["run", "series", "term", "edits"])["value"].sum().reset_index()
    summed["value"] = summed.groupby(["run", "term"])["value"].cumsum() / summed["run"].map(before)
    total = summed.drop_duplicates(["run", "term"], keep="last").groupby("run")["value"].sum()
    growth = after / before - 1
    # 2 %: both sides come from float32 weights; terms of every second step only are off by far more.
    complete = total.index[(total - growth).abs() <= 0.02 * (1 + growth.abs())]
    return summed[summed["run"].isin(complete)]


def _line(
    points: pd.DataFrame,
    x: str,
    *,
    label: str,
    colour: str,
    style: Style = "solid",
    marked: frozenset[float] = frozenset(),
) -> Line:
    ordered = points.sort_values(x)
    return Line(
        label=label,
        colour=colour,
        x=ordered[x].astype(float).tolist(),
        y=ordered["mean"].tolist(),
        low=ordered["low"].tolist(),
        high=ordered["high"].tolist(),
        style=style,
        marked=marked,
    )
