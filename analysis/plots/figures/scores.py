"""Figures of what a model can do: edits, facts that nobody edited, other tasks, and the alarms."""

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
from analysis.plots.figures.profiles import PART, Measured, changed_by, last, middle, profiles, words_for
from analysis.results.tables import alarms_of, having
from analysis.statistics.intervals import over_seeds
from analysis.units import WORDS, counted

_SHARE = (-0.03, 1.03)
"""Limits of an axis of shares, so that lines at 0 and 1 are seen whole."""


def edit_scores(measured: Measured) -> LineChart | None:
    """Efficacy, paraphrase and neighbourhood success over all edits so far, and of the first 50."""
    keys = {
        "edit/success/seen.rewrite": "efficacy (ES)",
        "edit/success/seen.paraphrase": "paraphrase (PS)",
        "edit/success/seen.neighbour": "neighbourhood (NS)",
        "edit/success/first50.rewrite": "ES of the first 50",
    }
    return _shares(measured, keys, "share of facts")


def retention(measured: Measured) -> LineChart | None:
    """Share of edits that still hold, by how many edits ago they were made, at the chosen counts."""
    rows = having(measured.metrics, "edit/retention", r"(?P<age>\d+)").astype({"age": int})
    lines = {
        profile.title: _dotted(series_lines(profile.rows, palette(measured.metrics), x="age"))
        for profile in profiles(rows, measured.at, default=(middle, last), whole=False)
    }
    if not lines:
        return None
    return LineChart(
        panels=panels((f"after {title}", found) for title, found in lines.items()),
        x_label="age in edits (≤)",
        y_label="share that still holds",
        limits=_SHARE,
        x_scale="log",  # the bins grow as 1, 2, 5, 10 do
    )


def known_facts(measured: Measured) -> LineChart | None:
    """Share of facts that nobody edited and that the model still answers."""
    keys = {"edit/known/unedited": "never-edited subjects", "edit/known/other": "edited subjects"}
    return _shares(measured, keys, "share of facts known")


def downstream(measured: Measured) -> LineChart | None:
    """Accuracy on every downstream task, their mean first.

    A task whose name continues another one's, as a subject of MMLU does, is a part of it and left out.
    """
    tasks = having(measured.metrics, "downstream/(?P<task>.+)", "acc")["task"].unique().tolist()
    whole = [task for task in tasks if not any(task.startswith(f"{other}_") for other in tasks)]
    ordered = sorted(whole, key=lambda task: (task != "mean", task))
    return _shares(measured, {f"downstream/{task}/acc": task for task in ordered}, "accuracy")


def ability(measured: Measured) -> TrackChart | None:
    """Mean downstream accuracy against the edited matrices' norm ratio, a point per measured count."""
    of_run = [*PART, "series", "unit", "count"]
    ratio, accuracy = (
        measured.metrics.loc[measured.metrics["key"] == key, [*of_run, "value"]]
        for key in (NORM_RATIO, ACCURACY)
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
            for name, colour in palette(measured.metrics).items()
            if name in set(points["series"])
        ),
        x_label=f"‖W‖ / ‖W₀‖ of the {changed_by(both)} matrices",
        y_label="mean downstream accuracy",
        scale=scale_for(points["mean_x"].to_numpy()),
    )


def alarms(measured: Measured) -> EventChart | None:
    """When each alarm fired, a row per signature from the first to the last, with the runs it spared."""
    fired = alarms_of(measured.metrics)
    if fired.empty:
        return None
    rows = fired.groupby("signature")["at"].mean().sort_values(kind="stable").index.tolist()
    runs = measured.metrics.groupby("series")["run"].nunique()
    end = float(measured.metrics["count"].max())
    units = measured.metrics.drop_duplicates("series").set_index("series")["unit"]
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
        for series, colour in palette(measured.metrics).items()
    ]
    return EventChart(
        rows=tuple(map(_spaced, rows)),
        events=tuple(events),
        x_label=words_for(measured.metrics),
        end=end,
        scale=scale_for(np.append(fired["at"].to_numpy(dtype=float), end)),
    )


def _shares(measured: Measured, titles: Mapping[str, str], y_label: str) -> LineChart | None:
    """A panel per metric key, on an axis of shares that begins below the lowest of them."""
    found = panels((title, curves(measured.metrics, key)) for key, title in titles.items())
    if not found:
        return None
    x_label = words_for(measured.metrics[measured.metrics["key"].isin(titles)])
    return LineChart(panels=found, x_label=x_label, y_label=y_label, limits=_from_below(found))


def _from_below(found: Sequence[Panel]) -> tuple[float, float]:
    """From the quarter below the lowest interval to 1: lines near 1 would coincide on a whole axis."""
    lows = [np.asarray(line.low, dtype=float) for panel in found for line in panel.lines]
    lowest = np.nanmin(np.concatenate(lows), initial=0.99)
    bottom = max(0.0, np.floor(4 * lowest) / 4)
    margin = _SHARE[0] * (1 - bottom)
    return float(bottom + margin), float(1 - margin)


def _dotted(lines: Sequence[Line]) -> list[Line]:
    """The lines with a dot at each of their points: there are few."""
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
