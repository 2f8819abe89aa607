"""The figures of a study: one picture with panels for every value of its facets, or its series in parts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.study import EDITED, Study
from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.save import Chart
from analysis.plots.figures.curves import palette
from analysis.plots.figures.registry import FigureSpec, charts

_PANELS = 12
"""Most panels of a picture with a group of them for every value; further ones of each group are left out."""


def _faceted(study: Study, groups: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str, Chart]]:
    """The figures whose panels are those of every group of rows, with its name in their titles."""
    found: dict[str, list[tuple[str, FigureSpec, Chart]]] = {}
    for name, rows in groups.items():
        ordered = rows.sort_values("series", kind="stable")
        for spec, chart in charts(ordered, study.figures, at=study.at):
            found.setdefault(spec.name, []).append((name, spec, chart))
    for figure, parts in found.items():
        _, spec, first = parts[0]
        if not isinstance(first, LineChart):
            for name, _, chart in parts:
                yield f"{figure}-{stem(name)}", f"{spec.caption} ({name})", chart
            continue
        most = max(1, _PANELS // len(parts))
        panels = tuple(
            replace(panel, title=": ".join(filter(None, (name, panel.title))))
            for name, _, chart in parts
            if isinstance(chart, LineChart)
            for panel in chart.panels[:most]
        )
        yield figure, spec.caption, replace(first, panels=panels)


def stem(name: str) -> str:
    """A part of a file's name: letters, digits and hyphens."""
    return re.sub(r"[^\w]+", "-", name).strip("-")


def figures(study: Study, evidence: Evidence) -> Iterator[tuple[str, str, Chart]]:
    """Name, caption and chart of the study's figures; many series are split over several pictures."""
    metrics = evidence.collection.metrics
    if study.series:
        lines = [key for key in study.series if key not in study.facets]
        names = evidence.cases(lines).replace("", "none")  # of runs without a regularizer
        metrics = metrics.assign(series=metrics["run"].map(names))
    facets = evidence.cases(study.facets) if study.facets else pd.Series(dtype=str)
    if facets.nunique() > 1:
        # panels by editor hold series that are no editors
        editors = "" if "editor" in study.facets else metrics["editor"]
        colours = palette(metrics.assign(editor=editors).sort_values("series"))
        rows = metrics.assign(colour=metrics["series"].map(colours))
        groups = rows.groupby(metrics["run"].map(facets), sort=True)
        yield from _faceted(study, {str(name): rows for name, rows in groups})
        return
    names = sorted(metrics["series"].unique())
    if not study.series:  # together in one picture, the largest would flatten the others
        largest = metrics[metrics["key"] == EDITED].groupby("series")["value"].max()
        names.sort(key=lambda name: (largest.get(name, 0.0), name))
    parts = [names[first : first + study.lines] for first in range(0, len(names), study.lines)]
    for place, part in enumerate(parts, start=1):
        # colours follow the order of the rows
        rows = pd.concat([metrics[metrics["series"] == name] for name in part])
        for spec, chart in charts(rows, study.figures, at=study.at) if study.figures else []:
            name = spec.name if len(parts) == 1 else f"{spec.name}-{place}"
            yield name, spec.caption, chart
