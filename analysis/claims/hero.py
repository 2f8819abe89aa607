"""The figure at the top of the results, from sequences by several editors and from the controls of one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from analysis.claims.evidence import Evidence
from analysis.claims.headlines import BUILT_IN, REAL
from analysis.claims.studies.damage import law
from analysis.claims.study import EDITED
from analysis.plots.charts.hero import HeroChart
from analysis.plots.charts.lines import LineChart, Panel
from analysis.plots.charts.points import TrackChart
from analysis.plots.charts.scales import scale_for
from analysis.plots.figures.curves import palette, series_lines

SEQUENCES = {REAL: "collapse", BUILT_IN: "alarms"}
"""The experiment with sequences by several editors, by column; a real model goes before."""
CONTROLS = "mechanism"
CAPTION = (
    "(a) norm of the edited matrices over the unedited one, by editor; (b) share of facts that nobody edited "
    "and the model still knows; (c) its change against the functional drift, for these editors in their "
    "colours, and in black and grey for MEMIT's edits again and controls of them; in the inset against the "
    "growth of the norm"
)
_LIGHTEST = 0.3
"""Of the greys of controls, from 0 (white) to 1."""


def hero(sequences: Evidence, controls: Evidence) -> HeroChart | None:
    """The chart; None if the runs lack a number that it needs."""
    _, known = law.knowledge(sequences)
    names = sequences.cases(("editor", "batch_size", "regularizers"))
    growth = _curves(sequences, names, EDITED, "‖W‖ / ‖W₀‖", is_ratio=True)
    ability = _curves(sequences, names, known, "known facts", is_ratio=False)
    if growth is None or ability is None:
        return None
    colours = {line.label: line.colour for line in growth.lines}
    drift, norm = (
        _points(
            law.known_chart(sequences, predictor, label, names),
            law.known_chart(controls, predictor, label),
            colours,
        )
        for predictor, label in ((law.DRIFT, law.DRIFT), (law.NORM, "|norm ratio − 1|"))
    )
    if drift is None or norm is None:
        return None
    norm = replace(norm, scale="linear")
    titles = ("(a) norms grow", "(b) what is known is lost", "(c) what tells it")
    return HeroChart(growth=growth, ability=ability, drift=drift, norm=norm, titles=titles)


def _points(
    sequences: TrackChart | None, controls: TrackChart | None, colours: Mapping[str, str]
) -> TrackChart | None:
    """Controls in greys, and before them the sequences in the colours of their lines."""
    if controls is None:
        return None
    count = len(controls.tracks)
    shades = [to_hex(shade) for shade in colormaps["Greys"](np.linspace(1, _LIGHTEST, count))]
    tracks = [replace(track, colour=shade) for track, shade in zip(controls.tracks, shades, strict=True)]
    if sequences is not None:
        tracks += [replace(track, colour=colours[track.label]) for track in sequences.tracks]
    values = np.concatenate([np.asarray(track.x.mean) for track in tracks])
    return replace(controls, tracks=tuple(tracks), scale=scale_for(values))


def _curves(
    evidence: Evidence, names: pd.Series, key: str, label: str, *, is_ratio: bool
) -> LineChart | None:
    """A line per name, mean over seeds."""
    rows = evidence.series(key)
    if rows.empty:
        return None
    rows = rows.assign(series=rows["run"].map(names)).sort_values(["series", "count"], kind="stable")
    lines = series_lines(rows, palette(pd.DataFrame(rows)), log=is_ratio)
    scale = "log" if is_ratio else "linear"
    return LineChart(
        panels=(Panel(title="", lines=tuple(lines)),), x_label="edits", y_label=label, scale=scale
    )
