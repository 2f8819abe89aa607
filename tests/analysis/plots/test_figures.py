"""Figures: what they draw agrees with the table, and every file shows something."""

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from analysis.plots.charts.bars import BarChart
from analysis.plots.charts.canvas import STYLE, dot, panel_grid, settle
from analysis.plots.charts.heatmap import HeatMap
from analysis.plots.charts.lines import Line, LineChart
from analysis.plots.charts.points import TrackChart
from analysis.plots.charts.save import Chart
from analysis.plots.charts.scales import forward, inverse, log_ticks, scale_for, symlog_ticks, view
from analysis.plots.figures.registry import FIGURES, charts, save_figures
from analysis.plots.interactive.draw import interactive
from analysis.plots.interactive.lines import thinned
from analysis.plots.run_figures import run_figures
from analysis.results.collection import Collection, collect
from editors.errors import ConfigError, DataError
from tests.fake_runs import BLOCKS, EDITED, EDITORS, Part, WriteRun, write_parts, write_rows

IN_TRAINING = ("training", "adapters", "loss")
"""The figures that are only of runs that train."""
OF_SWEEPS = ("layer_sweep",)
"""Those of sweeps over the edited block."""
ELSEWHERE = (*IN_TRAINING, *OF_SWEEPS)


@pytest.fixture
def metrics(collection: Collection) -> pd.DataFrame:
    return collection.metrics.copy()


@pytest.fixture
def trained(write_run: WriteRun) -> pd.DataFrame:
    """All kinds of matrix of all blocks changed, as in training."""
    run = write_run(editor="memit", name="trained", trained=True, edited=tuple(range(BLOCKS)))
    return collect(run.parent).metrics


def drawn(metrics: pd.DataFrame, name: str, at: tuple[int, ...] = ()) -> Chart:
    ((_, chart),) = charts(metrics, [name], at=at)
    return chart


def lines_of(metrics: pd.DataFrame, name: str, at: tuple[int, ...] = ()) -> LineChart:
    chart = drawn(metrics, name, at)
    assert isinstance(chart, LineChart)
    return chart


def titles(chart: Chart) -> list[str]:
    return [panel.title.replace("\N{NO-BREAK SPACE}", " ") for panel in getattr(chart, "panels", ())]


def mean_of(metrics: pd.DataFrame, series: str, key: str, edits: int) -> float:
    chosen = (metrics["series"] == series) & (metrics["key"] == key) & (metrics["count"] == edits)
    return float(metrics.loc[chosen, "value"].mean())


def coloured(chart: Chart) -> Iterator[tuple[str, str]]:
    """Series and colour of whatever the chart draws."""
    for part in ("lines", "tracks", "events"):
        yield from ((one.label, one.colour) for one in getattr(chart, part, ()))


def test_a_table_with_all_keys_gives_every_figure(metrics: pd.DataFrame):
    assert [spec.name for spec, _ in charts(metrics)] == [
        spec.name for spec in FIGURES if spec.name not in ELSEWHERE
    ]


def test_a_figure_without_its_keys_is_left_out(metrics: pd.DataFrame):
    norms = metrics[metrics["key"].str.startswith("norm/frobenius")]
    assert [spec.name for spec, _ in charts(norms)] == ["norms", "layers"]
    assert [spec.name for spec, _ in charts(metrics[metrics["key"].str.startswith("probe/")])] == [
        "probe_matrix",
        "probes",
    ]
    assert charts(metrics[metrics["key"] == "time/step/seconds"]) == []


def test_an_unknown_figure_is_refused_in_a_sentence(metrics: pd.DataFrame):
    with pytest.raises(ConfigError, match=r"figure 'norm' .* 1 training, 2"):
        charts(metrics, ["norm"])


def test_a_figure_is_chosen_by_name_number_or_the_number_of_its_group(metrics: pd.DataFrame):
    def names(*only: str) -> list[str]:
        return [spec.name for spec, _ in charts(metrics, only)]

    assert names("5") == ["probe_matrix", "probes"]
    assert names("8b", "2", "alarms") == ["norms", "retention", "alarms"]
    assert names("1") == []


@pytest.mark.slow
def test_every_figure_is_saved_non_empty_in_every_format_at_column_width(
    metrics: pd.DataFrame, tmp_path: Path, write_run: WriteRun
):
    write_parts(tmp_path, Part(name="lora", total=40, adapters=True), name="train")
    trained = charts(collect(tmp_path / "train").metrics, IN_TRAINING)
    for block in (0, 2):
        write_run(editor="rome", name="sweep", edited=(block,))
    swept = charts(collect(tmp_path / "sweep").metrics, OF_SWEEPS)
    paths = save_figures([*charts(metrics), *trained, *swept], tmp_path / "figures")
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
    chart = lines_of(metrics, "norms")
    assert chart.scale == "log"
    ends = {line.label: line.y[-1] for line in chart.lines if line.style == "solid"}
    assert ends == pytest.approx({editor: damage.ratio for editor, damage in EDITORS.items()})
    assert {y for line in chart.lines if line.style == "dashed" for y in line.y} == {1.0}


@pytest.mark.parametrize(("lowest", "bottom"), [(0.97, 0.75), (0.4, 0.25), (0.0, 0.0)])
def test_shares_are_drawn_from_the_quarter_below_the_lowest(
    metrics: pd.DataFrame, lowest: float, bottom: float
):
    kept = metrics[metrics["key"] == "downstream/mean/acc"][:2].assign(value=[1.0, lowest])
    low, high = lines_of(kept, "downstream").view
    assert bottom - 0.03 <= low < bottom and 1 < high <= 1.03


def test_slow_growth_stays_on_a_linear_axis(metrics: pd.DataFrame):
    assert lines_of(metrics[metrics["editor"] == "encore"], "norms").scale == "linear"


def test_norms_by_layer_mark_the_edited_blocks(metrics: pd.DataFrame):
    """Only sites that changed are shown."""
    chart = lines_of(metrics, "layers")
    assert titles(chart) == ["mlp_down, 20 edits", "mlp_down, 60 edits"]
    unedited, *after = chart.panels[-1].lines
    assert unedited.label == "unedited" and len(unedited.x) == BLOCKS
    for line in after:
        assert line.marked == {EDITED}
        apart = np.flatnonzero(~np.isclose(line.y, unedited.y))
        assert apart.tolist() == [EDITED]


def test_growth_terms_add_up_to_the_growth_of_the_squared_norm(write_run: WriteRun):
    write_run(editor="rome")
    metrics = collect(write_run(editor="memit").parent).metrics
    cross, square = lines_of(metrics, "growth").panels
    for one, other in zip(cross.lines, square.lines, strict=True):
        ratio = EDITORS[one.label].ratio
        assert one.y[-1] + other.y[-1] == pytest.approx(ratio**2 - 1)


def test_growth_leaves_out_runs_with_incomplete_terms(write_run: WriteRun):
    """Terms logged at every fifth step do not add up to the growth."""
    write_run(editor="rome")
    metrics = collect(write_run(editor="memit", every=5).parent).metrics
    assert {line.label for line in lines_of(metrics, "growth").lines} == {"rome"}


def test_few_seeds_are_thin_lines_around_their_mean(metrics: pd.DataFrame):
    for line in lines_of(metrics, "scores").lines:
        heights = np.array([y for _, y in line.seeds])
        assert len(heights) == metrics["seed"].nunique() and all(x == line.x for x, _ in line.seeds)
        assert heights.mean(axis=0) == pytest.approx(line.y)
        assert list(line.low) == list(line.y) == list(line.high)
    for line in lines_of(metrics[metrics["seed"] == 0], "scores").lines:
        assert not line.seeds and list(line.low) == list(line.y) == list(line.high)


def test_from_five_seeds_on_a_band_replaces_them(metrics: pd.DataFrame):
    noise = np.random.default_rng(0)
    copies = [
        metrics.assign(
            run=metrics["run"] + f"-{copy}", value=metrics["value"] * noise.uniform(0.9, 1.1, len(metrics))
        )
        for copy in range(3)
    ]
    for line in lines_of(pd.concat(copies), "scores").lines:
        assert not line.seeds
        assert np.all(np.asarray(line.low) <= line.y) and np.all(np.asarray(line.y) <= line.high)
        assert np.any(np.asarray(line.low) < line.y)


def test_a_series_has_one_colour_in_all_figures(metrics: pd.DataFrame):
    pairs = {pair for _, chart in charts(metrics) for pair in coloured(chart)}
    labels = [label for label, _ in pairs]
    assert sorted(labels) == sorted({*EDITORS, "unedited", "chance"})


def test_training_shows_runs_that_changed_attention(metrics: pd.DataFrame, trained: pd.DataFrame):
    """With one panel for attention and one for MLP matrices."""
    assert charts(metrics, IN_TRAINING) == []
    chart = lines_of(trained, "training")
    assert titles(chart) == ["attention matrices", "MLP matrices"]
    assert chart.x_label == "edits"
    for where, line in zip(("attention", "mlp"), chart.lines, strict=True):
        assert line.y[-1] == pytest.approx(mean_of(trained, "memit", f"norm/frobenius_ratio/{where}", 60))


def test_activation_norms_by_block_are_those_of_the_chosen_count(metrics: pd.DataFrame):
    chart = lines_of(metrics[metrics["seed"] == 0], "activations")
    assert titles(chart)[:2] == ["residual stream, 20 edits", "residual stream, 60 edits"]
    unedited, *lines = chart.panels[1].lines
    assert set(unedited.y) == {1.0}
    for line in lines:
        prefix = "prompts." if line.style == "dashed" else ""
        for block, value in zip(line.x, line.y, strict=True):
            key = f"activation/norm_ratio/{prefix}block.{int(block):02d}"
            assert value == pytest.approx(mean_of(metrics[metrics["seed"] == 0], line.label, key, 60))
    assert {line.style for line in lines} == {"solid", "dashed"}
    assert {line.marked for line in lines if line.style == "solid"} == {frozenset({EDITED})}


def test_profiles_stand_at_the_nearest_measured_count_and_say_which(metrics: pd.DataFrame):
    chart = lines_of(metrics, "layers", at=(10, 33, 34, 1000))
    assert titles(chart) == [
        "mlp_down, 10 edits",
        "mlp_down, 30 edits (asked: 33)",
        "mlp_down, 60 edits (asked: 1000)",
    ]
    at_ten = next(line for line in chart.panels[0].lines if line.label == "encore")
    ratio = at_ten.y[EDITED] / chart.panels[0].lines[0].y[EDITED]
    ratios = metrics[
        (metrics["key"] == f"norm/frobenius_ratio/mlp_down.{EDITED:02d}") & (metrics["count"] == 10)
    ]
    assert ratio == pytest.approx(np.exp(np.log(ratios[ratios["series"] == "encore"]["value"]).mean()))


def test_a_run_that_stopped_early_is_shown_at_its_own_last_count(write_run: WriteRun):
    write_run(editor="rome", edits=40)
    chart = lines_of(collect(write_run(editor="memit").parent).metrics, "layers")
    assert titles(chart)[-1] == "mlp_down, 40–60 edits"


def test_the_probe_matrix_holds_every_pair_once_below_its_diagonal(metrics: pd.DataFrame):
    chart = drawn(metrics, "probe_matrix")
    assert titles(chart) == ["unedited", *(f"{editor}, 60 edits" for editor in ("encore", "memit", "rome"))]
    for grid, (series, edits) in zip(
        chart.panels[1:], (("encore", 60), ("memit", 60), ("rome", 60)), strict=True
    ):
        known = np.isfinite(grid.values)
        assert known.sum() == BLOCKS * (BLOCKS - 1) // 2 and not known[np.triu_indices(BLOCKS)].any()
        for later, earlier in np.argwhere(known):
            key = f"probe/accuracy/{earlier:02d}-{later:02d}"
            assert grid.values[later, earlier] == pytest.approx(mean_of(metrics, series, key, edits))


def test_probe_curves_begin_together_and_have_chance_in_every_panel(metrics: pd.DataFrame):
    chart = lines_of(metrics, "probes")
    assert titles(chart)[0] == "all pairs of blocks" and len(chart.panels) == 4
    for panel in chart.panels:
        chance, *lines = panel.lines
        assert set(chance.y) == {0.5}
        assert np.ptp([line.y[0] for line in lines]) < 0.05


def test_shares_add_up_to_one_in_every_panel_and_mark_the_edited_block(metrics: pd.DataFrame):
    chart = drawn(metrics, "shares")
    assert titles(chart) == ["unedited", "encore, 60 edits", "memit, 60 edits", "rome, 60 edits"]
    for panel in chart.panels:
        assert sum(panel.tops.values()) == pytest.approx(1)
        assert len(panel.tops) == BLOCKS + 1
    assert [panel.marked for panel in chart.panels] == [frozenset(), *[frozenset({EDITED})] * 3]


def test_retention_stands_at_the_ages_that_were_measured(metrics: pd.DataFrame):
    chart = lines_of(metrics, "retention")
    assert titles(chart) == ["after 20 edits", "after 60 edits"]
    early, late = chart.panels
    assert {tuple(line.x) for line in early.lines} == {(10, 20)}
    for line in late.lines:
        expected = [mean_of(metrics, line.label, f"edit/retention/{int(age):04d}", 60) for age in line.x]
        assert list(line.y) == pytest.approx(expected)


def test_downstream_shows_the_mean_first_and_a_group_without_its_parts(metrics: pd.DataFrame):
    part = metrics[metrics["key"] == "downstream/qa/acc"].assign(key="downstream/qa_law/acc")
    chart = lines_of(pd.concat([metrics, part]), "downstream")
    assert titles(chart) == ["mean", "choice", "qa", "sentiment"]
    for panel in chart.panels:
        for line in panel.lines:
            key = f"downstream/{panel.title}/acc"
            assert line.y[-1] == pytest.approx(mean_of(metrics, line.label, key, 60))


def test_ability_has_a_point_per_checkpoint_in_the_order_of_the_edits(metrics: pd.DataFrame):
    chart = drawn(metrics, "ability")
    assert [track.label for track in chart.tracks] == ["encore", "memit", "rome"]
    for track in chart.tracks:
        assert list(track.notes) == [f"{edits} edits" for edits in range(0, 61, 10)]
        accuracies = [
            mean_of(metrics, track.label, "downstream/mean/acc", edits) for edits in range(0, 61, 10)
        ]
        assert track.y.mean == pytest.approx(accuracies)
        assert track.x.mean[-1] == pytest.approx(EDITORS[track.label].ratio)
        assert np.all(track.x.errors >= 0)


def test_a_long_track_has_few_intervals_but_all_its_points(write_run: WriteRun):
    (track,) = drawn(collect(write_run(editor="memit", edits=900).parent).metrics, "ability").tracks
    assert len(track.notes) == 91 and 91 / track.every <= 20


def test_singular_values_are_ordered(metrics: pd.DataFrame):
    """Only those of the changed matrices are drawn."""
    chart = lines_of(metrics, "singular")
    assert titles(chart) == ["encore", "memit", "rome"]
    for panel in chart.panels:
        assert [line.strength for line in panel.lines] == sorted(
            (line.strength for line in panel.lines), reverse=True
        )
        ends = [line.y[-1] for line in panel.lines]
        assert ends == sorted(ends, reverse=True) and len(ends) == 5
        assert ends[0] == pytest.approx(9 * EDITORS[panel.title].ratio)
        assert panel.lines[0].x == [0, 1, 10, 60]
    assert chart.x_scale == "symlog"


def test_alarms_stand_in_the_order_in_which_they_fired_and_never_is_said(metrics: pd.DataFrame):
    chart = drawn(metrics, "alarms")
    assert chart.rows == ("norm growth", "probe collapse", "ability loss", "activation shift")
    occurrences = {(event.label, event.row): event.occurrences for event in chart.events}
    assert (
        occurrences["memit", "norm growth"] == "2 of 2" and occurrences["memit", "probe collapse"] == "never"
    )
    encore = {text for (label, _), text in occurrences.items() if label == "encore"}
    assert encore == {"never"}
    fired = metrics[metrics["key"].str.startswith("alarm/")]
    assert sorted(x for event in chart.events for x in event.x) == sorted(fired["value"])


def test_without_an_alarm_there_is_no_figure_of_alarms(metrics: pd.DataFrame):
    assert charts(metrics[metrics["series"] == "encore"], ["alarms"]) == []


def test_a_run_alone_is_drawn_before_it_is_marked_as_done(write_run: WriteRun, tmp_path: Path):
    run = write_run(editor="rome")
    for name in ("DONE", "summary.json", "provenance.json"):
        (run / name).unlink()
    paths = run_figures(run, tmp_path / "pictures")
    assert set(paths) == {spec.name for spec in FIGURES} - {*ELSEWHERE}
    assert all(path.stat().st_size > 3000 and path.suffix == ".png" for path in paths.values())


def test_a_run_without_numbers_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="holds no numbers of a run"):
        run_figures(tmp_path, tmp_path)


def described(chart: Chart) -> list[float]:
    """The numbers that a chart describes, whoever draws it."""
    match chart:
        case LineChart():
            return [y for line in chart.lines for y in line.y]
        case HeatMap():
            return [value for grid in chart.panels for value in grid.values.ravel()]
        case BarChart():
            return [y for panel in chart.panels for part in panel.bars for y in part.y]
        case TrackChart():
            return [number for track in chart.tracks for axis in (track.x, track.y) for number in axis.mean]
    return [x for event in chart.events for x in [*event.x, *([event.mean] if event.x else [])]]


def on_page(chart: Chart) -> list[float]:
    """The numbers in the traces of the Plotly figure, without those of intervals and of the legend."""
    traces = interactive(chart).data
    match chart:
        case LineChart():
            return [row[0] for trace in traces if trace.customdata is not None for row in trace.customdata]
        case HeatMap():
            rows = [np.array(trace.z, dtype=float).ravel() for trace in traces]
            return np.concatenate(rows).tolist()
        case BarChart():
            return [y for trace in traces if trace.type == "bar" for y in trace.y]
        case TrackChart():
            return [number for trace in traces for axis in (trace.x, trace.y) for number in axis]
    return [x for trace in traces if trace.customdata is not None for x in trace.customdata]


def traces_with_data(chart: Chart) -> int:
    """The number of traces of the Plotly figure that show data, without those of the legend."""
    return sum(trace.customdata is not None for trace in interactive(chart).data)


@pytest.mark.parametrize("name", [spec.name for spec in FIGURES if spec.name not in ELSEWHERE])
def test_the_page_draws_the_numbers_of_the_paper(name: str, metrics: pd.DataFrame):
    chart = drawn(metrics, name)
    rounding = 1e-4 if isinstance(chart, HeatMap) else 1e-8
    assert on_page(chart) == pytest.approx(described(chart), abs=rounding, nan_ok=True)
    if isinstance(chart, LineChart):
        assert traces_with_data(chart) == len(chart.lines)


def test_a_run_that_diverged_is_shown_as_far_as_it_has_numbers(write_run: WriteRun, tmp_path: Path):
    write_run(editor="encore")
    run = write_run(editor="memit")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines[30:]:
        line |= {key: float("nan") for key in line if "/" in key}
    write_rows(run, lines)
    metrics = collect(run.parent).metrics
    assert len(save_figures(charts(metrics), tmp_path / "x", ["svg"])) == len(FIGURES) - len(ELSEWHERE)
    memit = drawn(metrics, "ability").tracks[1]
    assert memit.notes[-1] == "20 edits"
    nothing = metrics.assign(value=float("nan"))
    assert charts(nothing[~nothing["key"].str.startswith("alarm/")]) == []


def test_a_long_line_is_thinned_on_the_page_alone_and_keeps_its_ends():
    x = [float(edits) for edits in range(10_001)]
    line = Line(label="a", colour="#000000", x=x, y=x, low=x, high=x, marked=frozenset({17.0}))
    kept = thinned(line)
    assert len(kept) <= 401 and kept[0] == 0 and kept[-1] == 10_000 and 17 in kept


def test_a_deep_model_is_drawn_without_numbers_in_its_cells(write_run: WriteRun, tmp_path: Path):
    metrics = collect(write_run(editor="memit", blocks=48, edited=(13, 14)).parent).metrics
    for path in save_figures(charts(metrics, ["3", "4", "5a", "6"]), tmp_path, ["svg"]):
        assert path.read_text().count("<use") < 2500, path
    matrix = drawn(metrics, "probe_matrix")
    assert [grid.values.shape for grid in matrix.panels] == [(48, 48)] * 2


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


def test_ticks_about_zero_do_not_run_into_one_another():
    assert symlog_ticks((-20.0, 200.0)) == [-10.0, -1.0, 0.0, 1.0, 10.0, 100.0]
    wide = symlog_ticks((-1e5, 1e14))
    assert np.ptp(np.diff(forward(wide, "symlog"))) == 0 and 0 in wide and len(wide) <= 6


@pytest.mark.parametrize(
    "limits",
    [
        (0.95, 2.7),
        (0.98, 1.5),
        (1.0, 1.02),
        (0.9, 12.0),
        (0.9, 30.0),
        (1.0, 99.0),
        (26.0, 46.6),
        (0.88, 1.87),
    ],
)
def test_a_logarithmic_axis_has_ticks_that_tell_it(limits: tuple[float, float]):
    ticks = log_ticks(limits)
    assert 3 <= len(ticks) <= 6 and limits[0] <= ticks[0] and ticks[-1] <= limits[1]
    assert len({f"{tick:g}" for tick in ticks}) == len(ticks) and ticks == sorted(ticks)


@pytest.mark.parametrize("words", [5, 30, 90])
def test_a_legend_stays_inside_the_figure_however_long_its_entries_are(words: int):
    with mpl.rc_context(fname=STYLE):
        entries = [dot("a setting " * words), dot("b")]
        figure, (axis,) = panel_grid(1, columns=1, panel_height=1.5, entries=entries)
        settle(figure)
    box, panel = figure.legends[0].get_window_extent(), axis.get_tightbbox()
    assert panel is not None
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    assert panel.height > 0.8 * 1.5 * figure.dpi, "the legend has room of its own"
