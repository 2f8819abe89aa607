"""The figure at the top of the results, from sequences by several editors and from the controls of one."""

from dataclasses import replace

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.headlines import BUILT_IN, REAL
from analysis.claims.studies.damage import law
from analysis.claims.study import EDITED
from analysis.plots.charts.hero import HeroChart
from analysis.plots.charts.lines import LineChart, Panel
from analysis.plots.figures.curves import palette, series_lines

SEQUENCES = {REAL: "collapse", BUILT_IN: "alarms"}
"""The experiment with sequences by several editors, by column; a real model goes before."""
CONTROLS = "mechanism"
CAPTION = (
    "(a) norm of the edited matrices over the unedited one, by editor; (b) share of facts that nobody edited "
    "and the model still knows; (c) its change against the functional drift, for real edits and controls, "
    "and in the inset against the growth of the norm"
)


def hero(sequences: Evidence, controls: Evidence) -> HeroChart | None:
    """The chart; None if the runs lack a number that it needs."""
    _, known = law.knowledge(sequences)
    growth = _curves(sequences, EDITED, "‖W‖ / ‖W₀‖", is_ratio=True)
    ability = _curves(sequences, known, "known facts", is_ratio=False)
    drift, norm = (
        law.known_chart(controls, predictor, label)
        for predictor, label in ((law.DRIFT, law.DRIFT), (law.NORM, "|norm ratio − 1|"))
    )
    if norm is not None:
        norm = replace(norm, scale="linear")
    if growth is None or ability is None or drift is None or norm is None:
        return None
    titles = ("(a) norms grow", "(b) what is known is lost", "(c) what tells it")
    return HeroChart(growth=growth, ability=ability, drift=drift, norm=norm, titles=titles)


def _curves(evidence: Evidence, key: str, label: str, *, is_ratio: bool) -> LineChart | None:
    """A line per editor, mean over seeds."""
    rows = evidence.series(key)
    if rows.empty:
        return None
    editors = evidence.runs.groupby("editor")["regularizers"].nunique()
    several = evidence.runs["regularizers"].where(evidence.runs["editor"].map(editors) > 1, "")
    names = evidence.cases(("editor", "batch_size", several))
    rows = rows.assign(series=rows["run"].map(names)).sort_values(["series", "count"], kind="stable")
    lines = series_lines(rows, palette(pd.DataFrame(rows)), log=is_ratio)
    scale = "log" if is_ratio else "linear"
    return LineChart(
        panels=(Panel(title="", lines=tuple(lines)),), x_label="edits", y_label=label, scale=scale
    )
