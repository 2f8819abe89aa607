"""Figures of causal tracing and of sweeps over blocks: what they draw agrees with the table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.plots.charts.heatmap import HeatMap
from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.save import Chart, draw
from analysis.plots.figures.registry import charts
from analysis.plots.interactive.draw import interactive
from analysis.results.collection import collect
from tests.fake_runs import BLOCKS, WriteRun

ROWS = ("first subject token", "last subject token", "first token after", "further tokens", "last token")


def drawn(metrics: pd.DataFrame, name: str) -> Chart | None:
    found = charts(metrics, [name])
    return found[0][1] if found else None


@pytest.fixture
def heat_map(write_run: WriteRun) -> HeatMap:
    for seed in (0, 1):
        folder = write_run(editor="memit", seed=seed)
    chart = drawn(collect(folder.parent).metrics, "tracing")
    assert isinstance(chart, HeatMap)
    return chart


def test_tracing_has_a_panel_per_model_and_kind(heat_map: HeatMap):
    """The models are the unedited one and those of every series."""
    titles = [grid.title.replace("\N{NO-BREAK SPACE}", " ") for grid in heat_map.panels]
    kinds = ("state", "MLP", "attention")
    assert titles == [f"{which}, {kind}" for which in ("unedited", "memit, 60 edits") for kind in kinds]
    assert heat_map.rows == ROWS, "no row for a class that no prompt has"
    assert all(grid.values.shape == (len(ROWS), BLOCKS) for grid in heat_map.panels)
    unedited, edited = heat_map.panels[1].values, heat_map.panels[4].values
    assert unedited[1] == pytest.approx(0.5 * np.arange(BLOCKS, 0, -1) / BLOCKS)
    assert edited[1, 0] == pytest.approx(0.3 * unedited[1, 0])
    assert heat_map.limits == (0.0, pytest.approx(0.5))


def test_both_drawings_name_the_rows(heat_map: HeatMap):
    figure = draw(heat_map)
    left, beside = figure.axes[0], figure.axes[1]
    assert [text.get_text() for text in left.get_yticklabels()] == list(ROWS)
    assert not any(text.get_visible() for text in beside.get_yticklabels())
    page = interactive(heat_map)
    assert list(page.layout.yaxis.ticktext) == list(ROWS)
    assert page.data[0].customdata[1][0] == "last subject token"
    assert page.data[0].hovertemplate.startswith("%{customdata}, block %{x}: ")


def sweep(
    write_run: WriteRun, *, editor: str = "rome", blocks: tuple[int, ...] = (0, 2), **more: object
) -> Path:
    for block in blocks:
        for seed in (0, 1):
            folder = write_run(editor=editor, seed=seed, edited=(block,), **more)
    return folder.parent


def test_a_sweep_over_blocks_has_a_line_per_editor_and_a_point_per_block(write_run: WriteRun):
    sweep(write_run, blocks=(2, 0, 4))
    metrics = collect(sweep(write_run, editor="memit")).metrics
    chart = drawn(metrics, "layer_sweep")
    assert isinstance(chart, LineChart)
    titles = [panel.title.split(",")[0] for panel in chart.panels]
    assert titles == ["efficacy (ES)", "paraphrase (PS)", "neighbourhood (NS)", "score"]
    lines = {line.label: line for line in chart.panels[3].lines}
    assert {label: tuple(line.x) for label, line in lines.items()} == {"memit": (0, 2), "rome": (0, 2, 4)}
    of_two = metrics["series"].isin({s for s in metrics["series"].unique() if "[2]" in s and "rome" in s})
    last = metrics[of_two & (metrics["key"] == "edit/score/seen") & (metrics["count"] == 60)]
    assert len(last) == 2
    assert lines["rome"].y[1] == pytest.approx(last["value"].mean())


def test_runs_that_are_no_sweep_are_not_drawn(
    write_run: WriteRun,
):
    """One block, several blocks edited together, or runs that differ in other settings."""
    assert drawn(collect(sweep(write_run, name="one", blocks=(1,))).metrics, "layer_sweep") is None
    write_run(editor="rome", name="several", edited=(0, 1))
    folder = write_run(editor="rome", name="several", edited=(2,)).parent
    assert drawn(collect(folder).metrics, "layer_sweep") is None
    sweep(write_run, name="other")
    folder = sweep(write_run, name="other", blocks=(2,), settings={"batch_size": 5})
    assert drawn(collect(folder).metrics, "layer_sweep") is None
