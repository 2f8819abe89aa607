"""Figures of a model's abilities: edits, facts that nobody edited, other tasks, and the alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.metrics import ACCURACY, NORM_RATIO
from analysis.plots.charts.events import Event, EventChart
from analysis.plots.charts.lines import Line, LineChart, Panel
from analysis.plots.charts.points import Spread, Track, TrackChart
from analysis.plots.charts.scales import scale_for
from analysis.plots.figures.curves import curves, palette, panels, series_lines
from analysis.plots.figures.profiles import PART, FigureData, changed_by, last, middle, profiles, words_for
from analysis.results.tables import alarms_of, rows_matching
from analysis.statistics.intervals import over_seeds
from analysis.units import WORDS, counted

_SHARE = (-0.03, 1.03)
"""Limits of an axis of shares; lines at 0 and 1 are fully visible."""


def edit_scores(data: FigureData) -> LineChart | None:
    """Efficacy, paraphrase and neighbourhood success over all edits so far, and of the first 50."""
    keys = {
        "edit/success/seen.rewrite": "efficacy (ES)",
        "edit/success/seen.paraphrase": "paraphrase (PS)",
        "edit/success/seen.neighbour": "neighbourhood (NS)",
        "edit/success/first50.rewrite": "ES of the first 50",
    }
    return _shares(data, keys, "share of facts")


def retention(data: FigureData) -> LineChart | None:
    """Share of edits that still hold, by how many edits ago they were made, at the selected counts."""
    rows = rows_matching(data.metrics, "edit/retention", r"(?P<age>\d{1,9})").astype({"age": int})
    lines = {
        profile.title: _dotted(series_lines(profile.rows, palette(data.metrics), x="age"))
        for profile in profiles(rows, data.at, default=(middle, last), whole=False)
    }
    if not lines:
        return None
    return LineChart(
        panels=panels((f"after {title}", panel) for title, panel in lines.items()),
        x_label="age in edits (≤)",
        y_label="share that still holds",
        limits=_SHARE,
        x_scale="log",  # the bins grow as 1, 2, 5, 10 do
    )


def known_facts(data: FigureData) -> LineChart | None:
    """Share of facts that nobody edited and that the model still answers."""
    keys = {"edit/known/unedited": "never-edited subjects", "edit/known/other": "edited subjects"}
    return _shares(data, keys, "share of facts known")


def downstream(data: FigureData) -> LineChart | None:
    """Accuracy on every downstream task, their mean first.

    Parts of a task are left out: their names begin with that of the task, like the subjects of MMLU.
    """
    tasks = rows_matching(data.metrics, "downstream/(?P<task>.+)", "acc")["task"].unique().tolist()
    whole = [task for task in tasks if not any(task.startswith(f"{other}_") for other in tasks)]
    ordered = sorted(whole, key=lambda task: (task != "mean", task))
    return _shares(data, {f"downstream/{task}/acc": task for task in ordered}, "accuracy")


def ability(data: FigureData) -> TrackChart | None:
    """Mean downstream accuracy against the edited matrices' norm ratio: one point per measured count."""
    of_run = [*PART, "series", "unit", "count"]
    ratio, accuracy = (
        data.metrics.loc[data.metrics["key"] == key, [*of_run, "value"]] for key in (NORM_RATIO, ACCURACY)
    )
    both = ratio.merge(accuracy, on=of_run, suffixes=("_ratio", "_accuracy"))
    finite = (
        np.isfinite(both["value_ratio"]) & (both["value_ratio"] > 0) & np.isfinite(both["value_accuracy"])
    )
    both = both[finite]
    if both.empty:
        return None
    by = ("series", "unit", "count")
    x = over_seeds(both.rename(columns={"value_ratio": "value"}), by=by, log=True)
    y = over_seeds(both.rename(columns={"value_accuracy": "value"}), by=by)
    points = x.merge(y, on=list(by), suffixes=("_x", "_y")).sort_values("count", kind="stable")
    return TrackChart(
        tracks=tuple(
            _track(points[points["series"] == name], name, colour)
            for name, colour in palette(data.metrics).items()
            if name in set(points["series"])
        ),
        x_label=f"‖W‖ / ‖W₀‖ of the {changed_by(both)} matrices",
        y_label="mean downstream accuracy",
        scale=scale_for(points["mean_x"].to_numpy()),
    )


def alarms(data: FigureData) -> EventChart | None:
    """Counts at which each alarm fired: one row per signature, ordered by their means."""
    fired = alarms_of(data.metrics)
    if fired.empty:
        return None
    rows = fired.groupby("signature")["at"].mean().sort_values(kind="stable").index.tolist()
    runs = data.metrics.groupby("series")["run"].nunique()
    end = float(data.metrics["count"].max())
    units = data.metrics.drop_duplicates("series").set_index("series")["unit"]
    events = [
        Event(
            label=series,
            colour=colour,
            row=_spaced(signature),
            x=fired.loc[(fired["series"] == series) & (fired["signature"] == signature), "at"]
            .astype(float)
            .tolist(),
            runs=int(runs[series]),
            unit=WORDS[units[series]],
        )
        for signature in rows
        for series, colour in palette(data.metrics).items()
    ]
    return EventChart(
        rows=tuple(map(_spaced, rows)),
        events=tuple(events),
        x_label=words_for(data.metrics),
        end=end,
        scale=scale_for(np.append(fired["at"].to_numpy(dtype=float), end)),
    )


def _shares(data: FigureData, titles: Mapping[str, str], y_label: str) -> LineChart | None:
    """One panel per metric key, on an axis of shares that begins below the lowest value."""
    with_lines = panels((title, curves(data.metrics, key)) for key, title in titles.items())
    if not with_lines:
        return None
    x_label = words_for(data.metrics[data.metrics["key"].isin(titles)])
    return LineChart(panels=with_lines, x_label=x_label, y_label=y_label, limits=_from_below(with_lines))


def _from_below(figure_panels: Sequence[Panel]) -> tuple[float, float]:
    """From the quarter below the lowest interval to 1: lines near 1 would coincide on a whole axis."""
    lows = [np.asarray(line.low, dtype=float) for panel in figure_panels for line in panel.lines]
    lowest = np.nanmin(np.concatenate(lows), initial=0.99)
    bottom = max(0.0, np.floor(4 * lowest) / 4)
    margin = _SHARE[0] * (1 - bottom)
    return float(bottom + margin), float(1 - margin)


def _dotted(lines: Sequence[Line]) -> list[Line]:
    """The lines with a dot at each of their few points."""
    return [replace(line, marked=frozenset(line.x)) for line in lines]


def _track(points: pd.DataFrame, name: str, colour: str) -> Track:
    x, y = (
        Spread(**{part: points[f"{part}_{axis}"].tolist() for part in ("mean", "low", "high")})
        for axis in "xy"
    )
    notes = [counted(count, unit) for count, unit in points[["count", "unit"]].itertuples(index=False)]
    return Track(label=name, colour=colour, x=x, y=y, notes=notes)


def _spaced(signature: str) -> str:
    return signature.replace("_", " ")
