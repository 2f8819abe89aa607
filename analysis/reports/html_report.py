"""Writes an experiment as one HTML file that needs no network: tables, figures, settings, provenance."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.save import Chart, save
from analysis.plots.figures.metric_figures import MOST, key_charts, other_keys
from analysis.plots.figures.registry import FIGURES, FigureSpec, X, charts, save_figures
from analysis.plots.interactive.draw import interactive
from analysis.reports.conclusions import conclusions
from analysis.reports.fact_table import fact_table
from analysis.reports.html_page import html_page
from analysis.reports.optuna_study import Search
from analysis.results.collection import Collection
from analysis.results.tables import (
    alarm_list,
    alarm_order_text,
    as_text,
    best,
    differing_settings,
    kind,
    last_values,
    per_series,
    summary,
    values_by_key,
    without_formulas,
)
from analysis.spelling import spelled
from analysis.units import UNITS, amounts


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """A figure as the template shows it."""

    name: str
    number: str
    title: str
    caption: str
    banded: bool
    """Whether it shows lines with a band."""
    body: Markup
    """A `div` and the script that draws into it."""


def write_report(
    collection: Collection,
    folder: Path,
    *,
    title: str,
    at: Sequence[int] = (),
    x: X = "steps",
    studies: Sequence[Search] = (),
    figures: Sequence[FigureSpec] = FIGURES,
) -> Path:
    """Write metrics.parquet, summary.csv, figures/ and report.html there; returns the page's path.

    `at` are the counts of profiles, `x` is the x-axis of training. The page shows the searches `studies`, and
    of `figures` those whose metrics were measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    collection.metrics.to_parquet(folder / "metrics.parquet", index=False)
    without_formulas(summary(collection)).to_csv(folder / "summary.csv", index=False)
    drawn = charts(collection.metrics, at=at, x=x, figures=figures)
    others = key_charts(collection.metrics, other_keys(collection.metrics)[:MOST], x=x)
    save_figures([*drawn, *others], folder / "figures")
    for search in studies:
        if search.chart:
            save(search.chart, folder / "figures" / _figure_name(search), ["png", "svg", "pdf"])
    page = folder / "report.html"
    page.write_text(render(collection, drawn, title=title, others=others, studies=studies), encoding="utf-8")
    return page


def render(
    collection: Collection,
    figures: Sequence[tuple[FigureSpec, Chart]],
    *,
    title: str,
    others: Sequence[tuple[FigureSpec, Chart]] = (),
    studies: Sequence[Search] = (),
) -> str:
    """The page's HTML. The template escapes every text; only Plotly's own output is taken as it is."""
    runs = summary(collection)
    own = other_keys(collection.metrics)
    return html_page(
        "report.html.j2",
        title=title,
        lead=_lead(runs),
        conclusions=conclusions(collection),
        best=best(collection),
        facts=fact_table(collection),
        repeats=bool(runs.groupby("series").size().max() > 1),
        kind=kind(collection.runs),
        editors=per_series(collection),
        runs=as_text(_varying(runs)),
        unfinished=pd.DataFrame([vars(run) for run in collection.unfinished]),
        notes=collection.notes,
        alarms=alarm_list(collection),
        order=alarm_order_text(collection),
        differing=differing_settings(collection),
        settings=values_by_key(collection.settings),
        provenance=values_by_key(collection.provenance),
        figures=[_page_figure(spec, chart) for spec, chart in figures],
        plugged=any(spec not in FIGURES for spec, _ in figures),
        others=[_page_figure(spec, chart) for spec, chart in others],
        own=last_values(collection, own[:MOST]) if own else None,
        left_out=own[MOST:],
        searches=[(search, _body(search.chart, _figure_name(search))) for search in studies],
        plotly=Markup(get_plotlyjs()),
    )


def _varying(runs: pd.DataFrame) -> pd.DataFrame:
    """The table without columns that never change, and without the editor, which the series names."""
    columns = ("name", "model", "data", "intervention", "statistics", "alarms")
    numbers = ("edits", "steps", "tokens", "took", "stopped")
    constant = [column for column in columns if runs[column].nunique() == 1]
    constant += [column for column in numbers if not runs[column].any()]
    runs = runs.dropna(axis="columns", how="all")
    return runs.drop(columns=[*constant, "editor"])


def _lead(runs: pd.DataFrame) -> str:
    """The editors, interventions, models and data of the runs in one line."""
    counts = f"{len(runs)} finished run{'s' if len(runs) > 1 else ''}"
    edited = runs[runs["editor"].astype(bool)]
    descriptions = [
        spelled(_listed(edited, "editor")),
        spelled(_listed(runs[~runs["editor"].astype(bool)], "intervention")),
        _listed(runs, "model"),
        _listed(runs, "data"),
        *(amounts(runs[unit], unit) for unit in UNITS),
        _listed(edited, "statistics"),
    ]
    return " · ".join([counts, *filter(None, descriptions)])


def _listed(runs: pd.DataFrame, column: str) -> str:
    values = dict.fromkeys(str(value) for value in runs[column] if value)
    return f"{column} {', '.join(values)}" if values else ""


def _page_figure(spec: FigureSpec, chart: Chart) -> PageFigure:
    return PageFigure(
        name=spec.name,
        number=spec.number,
        title=spec.title,
        caption=spec.caption,
        banded=isinstance(chart, LineChart),
        body=_body(chart, spec.name),
    )


def _body(chart: Chart | None, name: str) -> Markup:
    """The HTML of a chart; empty without one."""
    if chart is None:
        return Markup()
    return Markup(
        interactive(chart).to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"figure-{name}",
            config={"displayModeBar": False, "responsive": True},  # the bar would lie over the lines
        )
    )


def _figure_name(search: Search) -> str:
    """A file name that is valid for every name of a study."""
    return f"search-{re.sub(r'[^A-Za-z0-9_-]', '_', search.name)}"
