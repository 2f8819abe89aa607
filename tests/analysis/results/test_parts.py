"""Runs that train and runs of several parts: every part has an axis and a series of its own."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.save import Chart
from analysis.plots.figures.registry import charts
from analysis.reports.html_report import render
from analysis.results.collection import collect, collect_run
from analysis.results.run_folder import RunFolder
from analysis.results.tables import alarm_order, alarms_of, per_series, summary
from tests.fake_runs import TOKENS, Part, WriteRun, keep_metrics, write_parts, write_rows

CPT = Part(name="cpt", total=40)
LORA = Part(name="lora", total=40, ratio=1.1, adapters=True)
LOCAL = Part(name="fft", total=30, everything=False)
MEMIT = Part(name="knowledge_edit", total=30, editor="memit")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    for part in (CPT, LORA, LOCAL):
        write_parts(tmp_path, part)
    return tmp_path / "quick"


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    for seed in (0, 1):
        write_parts(tmp_path, CPT, MEMIT, seed=seed)
    return tmp_path / "quick"


def drawn(folder: Path, name: str, **choices: object) -> Chart:
    ((_, chart),) = charts(collect(folder).metrics, [name], **choices)  # type: ignore[arg-type]
    return chart


def lines_of(folder: Path, name: str, **choices: object) -> LineChart:
    chart = drawn(folder, name, **choices)
    assert isinstance(chart, LineChart)
    return chart


def titles(chart: LineChart) -> list[str]:
    return [panel.title.replace("\N{NO-BREAK SPACE}", " ") for panel in chart.panels]


def test_a_row_is_counted_in_its_own_unit_and_keeps_its_tokens(trained: Path):
    metrics = collect(trained).metrics
    cpt = metrics[metrics["series"] == "cpt"]
    assert set(cpt["unit"]) == {"steps"} and cpt["count"].max() == CPT.total
    assert (cpt["tokens"] == TOKENS * cpt["count"]).all()
    assert set(metrics["key"].str.count("/")) == {2}


def test_rows_from_before_runs_could_train_count_edits(write_run: WriteRun):
    metrics = collect(write_run(editor="memit", edits=10).parent).metrics
    assert set(metrics["part"]) == {0} and set(metrics["unit"]) == {"edits"} and set(metrics["tokens"]) == {0}
    assert set(metrics["count"]) == set(range(11))


def test_an_alarm_of_an_older_run_is_still_one(write_run: WriteRun):
    folder = write_run(editor="memit", edits=20)
    rows, _ = RunFolder(folder).rows()
    before = alarms_of(collect(folder.parent).metrics)
    write_rows(folder, [{key.replace("/at", "/edits"): value for key, value in row.items()} for row in rows])
    assert len(before) and alarms_of(collect(folder.parent).metrics).equals(before)


@pytest.mark.parametrize(
    "row", ['{"unit": "epochs", "epochs": 1, "a/b/c": 1}', '{"unit": "steps", "edits": 1}']
)
def test_a_row_whose_count_is_not_known_is_skipped_with_a_note(trained: Path, row: str):
    run = next(trained.glob("cpt-*"))
    whole = collect(trained).metrics
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(row + "\n")
    collection = collect(trained)
    pd.testing.assert_frame_equal(collection.metrics, whole)
    assert "skipped 1 unreadable line(s)" in collection.notes[0]


def test_runs_without_an_editor_are_named_after_their_intervention(tmp_path: Path):
    """And after the settings that differ."""
    for rate in (1e-4, 1e-3):
        write_parts(tmp_path, CPT, settings={"optimiser": {"learning_rate": rate}})
    write_parts(tmp_path, LORA)
    assert set(collect(tmp_path / "quick").runs["series"]) == {
        "cpt, optimiser.learning_rate=0.0001",
        "cpt, optimiser.learning_rate=0.001",
        "lora",
    }


def test_every_part_of_a_run_is_a_series_and_no_series_mixes_units(sequence: Path):
    collection = collect(sequence)
    assert set(collection.runs["series"]) == {"cpt → memit"}
    metrics = collection.metrics
    assert list(metrics["series"].unique()) == ["cpt → memit · cpt", "cpt → memit · memit"]
    assert (metrics.groupby("series")["unit"].nunique() == 1).all()
    chart = lines_of(sequence, "norms")
    assert chart.x_label == "edits or optimiser steps"
    ends = {line.label: line.x[-1] for line in chart.lines}
    assert ends == {"cpt → memit · cpt": CPT.total, "cpt → memit · memit": MEMIT.total}


def test_parts_of_one_name_are_numbered(tmp_path: Path):
    run = write_parts(tmp_path, CPT, MEMIT, CPT)
    names = [name.partition(" · ")[2] for name in collect(run.parent).metrics["series"].unique()]
    assert names == ["cpt 1", "memit", "cpt 2"]


def test_a_run_of_parts_without_a_summary_is_drawn_all_the_same(tmp_path: Path):
    run = write_parts(tmp_path, CPT, MEMIT)
    (run / "summary.json").unlink()
    collection = collect_run(run)
    (row,) = collection.runs.to_dict("records")
    assert (row["edits"], row["steps"], row["tokens"]) == (MEMIT.total, CPT.total, TOKENS * CPT.total)
    assert row["series"] == "training → memit"
    assert {"norms", "loss", "scores"} <= {spec.name for spec, _ in charts(collection.metrics)}


def test_the_table_shows_the_units_that_runs_count(trained: Path, write_run: WriteRun, tmp_path: Path):
    """Steps and tokens if runs train, edits if they edit."""
    table = per_series(collect(trained)).set_index("intervention")
    assert table.loc["cpt", ["steps", "tokens"]].tolist() == ["40", f"{40 * TOKENS}"]
    assert "edits" not in table and float(table.loc["cpt", "training loss"]) > 0
    edited = per_series(collect(write_run(editor="memit", name="edited").parent))
    assert "steps" not in edited and "tokens" not in edited and "editor" in edited
    write_parts(tmp_path, CPT, MEMIT)
    both = per_series(collect(trained)).set_index("intervention")
    assert both.loc["cpt → memit", ["edits", "steps"]].tolist() == ["30", "40"]


def test_the_last_values_of_a_run_are_those_of_its_last_part(sequence: Path):
    collection = collect(sequence)
    metrics = collection.metrics
    last = metrics[(metrics["part"] == 1) & (metrics["count"] == MEMIT.total)]
    ratio = last[last["key"] == "norm/frobenius_ratio/edited"].set_index("run")["value"]
    assert summary(collection).set_index("run")["norm_ratio"].to_dict() == pytest.approx(ratio.to_dict())


def test_alarms_are_counted_in_the_unit_of_their_part(tmp_path: Path):
    """And they are ordered as they fired."""
    run = write_parts(tmp_path, CPT, MEMIT)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"alarm/ability_loss/at": 35.0} if (row["part"], row["steps"]) == (0, 35) else {}
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    collection = collect(run.parent)
    alarms = alarms_of(collection.metrics)
    assert alarms["signature"].tolist() == ["ability_loss", "norm_growth", "activation_shift"]
    assert alarms["words"].tolist()[0] == "35 optimiser steps" and alarms["words"].tolist()[1].endswith(
        " edits"
    )
    order = alarm_order(collection).set_index(["series", "signature"])
    lost = order.loc[("cpt → memit · cpt", "ability_loss")]
    assert lost[["at", "unit", "rank"]].tolist() == [35, "steps", 1]
    assert order.loc[("cpt → memit · memit", "norm_growth"), ["unit", "rank"]].tolist() == ["edits", 2]
    assert summary(collection)["alarms"][0].startswith("ability_loss after 35 optimiser steps, norm_growth")


def test_the_training_figure_shows_localized_training(trained: Path, write_run: WriteRun):
    """Edits of the MLP are left out."""
    write_run(editor="memit")
    chart = lines_of(trained, "training")
    assert titles(chart) == ["attention matrices", "MLP matrices"]
    assert chart.x_label == "optimiser steps"
    attention, mlp = ({line.label: line for line in panel.lines} for panel in chart.panels)
    assert set(attention) == set(mlp) == {"cpt", "fft", "lora"}
    assert set(attention["fft"].y) == {1.0} and mlp["fft"].y[-1] > 1.05


def test_a_part_that_edits_after_training_is_not_training(tmp_path: Path):
    """The order of the parts does not matter."""
    run = write_parts(tmp_path, CPT, MEMIT)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["part"] == 1 and "norm/frobenius_ratio/attention" in row:
            row["norm/frobenius_ratio/attention"] = 1.3
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert {line.label for line in lines_of(run.parent, "training").lines} == {"cpt → memit · cpt"}


def test_profiles_of_training_say_steps_and_have_no_dots(trained: Path):
    chart = lines_of(trained, "layers", at=(20,))
    assert "mlp_down, 20 optimiser steps" in titles(chart) and "attn_q, 20 optimiser steps" in titles(chart)
    assert not any(line.marked for line in chart.lines) and not chart.mark


def test_a_profile_of_both_units_names_both(sequence: Path):
    assert "mlp_down, 30 edits / 40 optimiser steps" in titles(lines_of(sequence, "layers"))


def test_adapters_are_stacked_over_their_matrices(trained: Path):
    chart = lines_of(trained, "adapters")
    assert titles(chart) == ["product ΔW", "factor A", "factor B"]
    factors = 1 + 0.1 * np.arange(6)
    ends = [panel.lines[0].y[-1] for panel in chart.panels]
    assert ends == pytest.approx(np.array([1, 2.2, 0.8]) * np.sqrt((factors**2).sum()))


def test_the_training_loss_is_logarithmic_where_it_is_positive(trained: Path):
    chart = lines_of(trained, "loss")
    assert chart.scale == "log" and {line.label for line in chart.lines} == {"cpt", "fft", "lora"}
    metrics = collect(trained).metrics
    lower = metrics.assign(value=metrics["value"].where(metrics["key"] != "train/loss/step", -1.0))
    ((_, chart),) = charts(lower, ["loss"])
    assert isinstance(chart, LineChart) and chart.scale == "linear"


def test_growth_of_a_later_part_is_that_since_it_began(sequence: Path):
    cross, square = lines_of(sequence, "growth").panels
    assert [line.label for line in cross.lines] == ["cpt → memit · memit"]
    assert cross.lines[0].y[-1] + square.lines[0].y[-1] == pytest.approx(110.0**2 - 1)


def test_training_is_drawn_over_the_tokens_of_its_own_part(tmp_path: Path):
    run = write_parts(tmp_path, CPT, MEMIT, CPT)
    chart = lines_of(run.parent, "norms", x="tokens")
    assert chart.x_label == "edits or trained tokens"
    ends = {line.label.partition(" · ")[2]: (line.x[0], line.x[-1]) for line in chart.lines}
    whole = (0, TOKENS * CPT.total)
    assert ends == {"cpt 1": whole, "memit": (0, MEMIT.total), "cpt 2": whole}


def test_runs_that_logged_no_tokens_are_drawn_over_edits(write_run: WriteRun):
    assert lines_of(write_run(editor="memit").parent, "norms", x="tokens").x_label == "edits"


def test_the_command_draws_over_tokens(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["figures", str(trained), "--x", "tokens", "--only", "loss", "--format", "svg"]
    assert main([*command, "--to", str(tmp_path / "paper")]) == 0
    assert capsys.readouterr().out.strip().endswith("loss.svg")
    keep_metrics(trained, "train/loss/")
    assert main(["report", str(trained), "--to", str(tmp_path / "page"), "--x", "tokens"]) == 0


def test_the_page_says_what_was_run(trained: Path, tmp_path: Path):
    collection = collect(trained)
    page = render(collection, charts(collection.metrics), title="t")
    assert "intervention CPT, FFT, LoRA · model tiny-gpt2 · data world · 30, 40 optimiser steps</p>" in page
    assert "Per intervention" in page and "Per editor" not in page
    write_parts(tmp_path, CPT, MEMIT, name="both")
    collection = collect(tmp_path / "both")
    page = render(collection, charts(collection.metrics), title="t")
    assert "30 edits · 40 optimiser steps · statistics given" in page
