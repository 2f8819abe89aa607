"""Figures: what they draw agrees with the table, and every file shows something."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from analysis.charts import Chart
from analysis.collect import collect
from analysis.figures import FIGURES, charts, save_figures
from analysis.interactive import interactive
from analysis.scales import forward, inverse, scale_for, symlog_ticks, view
from editors.errors import ConfigError
from tests.analysis.conftest import BLOCKS, EDITED, EDITORS, WriteRun


@pytest.fixture
def metrics(experiment: Path) -> pd.DataFrame:
    return collect(experiment).metrics


def drawn(metrics: pd.DataFrame, name: str) -> Chart:
    ((_, chart),) = charts(metrics, [name])
    return chart


def test_a_table_with_all_keys_gives_every_figure(metrics: pd.DataFrame):
    assert [spec.name for spec, _ in charts(metrics)] == [spec.name for spec in FIGURES]


def test_a_figure_without_its_keys_is_left_out(metrics: pd.DataFrame):
    norms = metrics[metrics["key"].str.startswith("norm/frobenius")]
    assert [spec.name for spec, _ in charts(norms)] == ["norms", "layers"]
    assert charts(metrics[metrics["key"] == "time/step/seconds"]) == []


def test_an_unknown_figure_is_refused_in_a_sentence(metrics: pd.DataFrame):
    with pytest.raises(ConfigError, match="figure 'norm' does not exist; choose from norms, layers"):
        charts(metrics, ["norm"])


def test_every_figure_is_saved_non_empty_in_every_format_at_column_width(
    metrics: pd.DataFrame, tmp_path: Path
):
    paths = save_figures(charts(metrics), tmp_path / "figures")
    assert sorted(path.name for path in paths) == sorted(
        f"{spec.name}.{ending}" for spec in FIGURES for ending in ("png", "svg", "pdf")
    )
    for path in paths:
        if path.suffix == ".png":
            picture = matplotlib.image.imread(path)
            assert picture.shape[1] == 1050  # 3.5 inches at 300 dots
            coloured = np.ptp(picture[..., :3], axis=2) > 0.2
            assert coloured.mean() > 0.003
        else:
            assert path.stat().st_size > 5000


def test_the_same_table_gives_the_same_files(metrics: pd.DataFrame, tmp_path: Path):
    for once, again in zip(
        *(save_figures(charts(metrics, ["norms"]), tmp_path / name) for name in "ab"), strict=True
    ):
        assert once.read_bytes() == again.read_bytes()


def test_norm_ratio_is_logarithmic_and_ends_at_each_editors_ratio(metrics: pd.DataFrame):
    chart = drawn(metrics, "norms")
    assert chart.scale == "log"
    ends = {line.label: line.y[-1] for line in chart.lines if line.style == "solid"}
    assert ends == pytest.approx({editor: final for editor, (final, _, _) in EDITORS.items()})
    assert {y for line in chart.lines if line.style == "dashed" for y in line.y} == {1.0}


def test_slow_growth_stays_on_a_linear_axis(metrics: pd.DataFrame):
    assert drawn(metrics[metrics["editor"] == "encore"], "norms").scale == "linear"


def test_norms_by_layer_show_changed_sites_alone_and_mark_the_edited_blocks(metrics: pd.DataFrame):
    chart = drawn(metrics, "layers")
    assert [panel.title for panel in chart.panels] == ["mlp_down"]
    unedited, *after = chart.lines
    assert unedited.label == "unedited" and len(unedited.x) == BLOCKS
    for line in after:
        assert line.marked == {EDITED}
        apart = np.flatnonzero(~np.isclose(line.y, unedited.y))
        assert apart.tolist() == [EDITED]


def test_growth_terms_add_up_to_the_growth_of_the_squared_norm(write_run: WriteRun):
    write_run(editor="rome")
    metrics = collect(write_run(editor="memit").parent).metrics
    cross, square = drawn(metrics, "growth").panels
    for one, other in zip(cross.lines, square.lines, strict=True):
        ratio = EDITORS[one.label][0]
        assert one.y[-1] + other.y[-1] == pytest.approx(ratio**2 - 1)


def test_growth_leaves_out_a_run_whose_terms_were_not_logged_at_every_step(write_run: WriteRun):
    write_run(editor="rome")
    metrics = collect(write_run(editor="memit", every=5).parent).metrics
    assert {line.label for line in drawn(metrics, "growth").lines} == {"rome"}


def test_bands_contain_their_line_and_one_seed_has_none(metrics: pd.DataFrame):
    for line in drawn(metrics, "scores").lines:
        assert np.all(np.asarray(line.low) <= line.y) and np.all(np.asarray(line.y) <= line.high)
        assert np.any(np.asarray(line.low) < line.y)
    for line in drawn(metrics[metrics["seed"] == 0], "scores").lines:
        assert list(line.low) == list(line.y) == list(line.high)


def test_a_series_has_one_colour_in_all_figures(metrics: pd.DataFrame):
    pairs = {(line.label, line.colour) for _, chart in charts(metrics) for line in chart.lines}
    labels = [label for label, _ in pairs]
    assert sorted(labels) == sorted({*EDITORS, "unedited"})


def test_the_page_draws_the_same_values_as_the_paper(metrics: pd.DataFrame):
    for _, chart in charts(metrics):
        traces = [trace for trace in interactive(chart).data if trace.customdata is not None]
        assert len(traces) == len(chart.lines)
        for trace, line in zip(traces, chart.lines, strict=True):
            assert np.allclose(trace.customdata[:, 0], line.y)


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
def test_a_scale_is_increasing_and_its_inverse_gives_the_values_back(scale):
    values = np.linspace(-30, 30, 121) if scale != "log" else np.logspace(-3, 3, 50)
    places = forward(values, scale)
    assert np.all(np.diff(places) > 0)
    assert np.allclose(inverse(places, scale), values)


def test_the_scale_follows_the_values():
    assert scale_for(np.array([1.0, 2.0])) == "linear"
    assert scale_for(np.array([1.0, 200.0])) == "log"
    assert scale_for(np.array([-1.0, 200.0])) == "symlog"
    assert scale_for(np.array([-1.0, 2.0])) == "linear"
    assert symlog_ticks((-20.0, 2000.0)) == [-10, -1, 0, 1, 10, 100, 1000]


def test_a_wide_band_does_not_dwarf_the_lines():
    low, high = view(np.array([1.0, 100.0]), np.array([1e-30, 1e30]), "log")
    assert 0.01 < low < 1 and 100 < high < 10_000
    low, high = view(np.array([1.0, 1.0]), np.array([1.0, 1.0]), "linear")
    assert low < 1 < high
