"""Names of others in each output: a CSV file, a terminal, a figure; and outputs that cannot be written."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.plots.charts.save import draw
from analysis.plots.figures.metric_figures import key_charts
from analysis.plots.figures.registry import charts
from analysis.plots.interactive.draw import interactive
from analysis.plots.interactive.page_layout import plain
from analysis.results.collection import collect
from analysis.results.tables import per_series, without_formulas
from tests.fake_runs import WriteRun

FORMULA = '=HYPERLINK("http://a.b")'
TERMINAL = "\x1b[2J\x1b[31m[red]$x_{$"


def rename(run: Path, **fields: str) -> None:
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def keep_only(run: Path, *areas: str) -> None:
    """Leave out all metrics but those of some areas, as of a run with fewer stages."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if "/" not in k or k.startswith(areas)} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    rename(run, metrics={key: value for row in kept for key, value in row.items() if "/" in key})  # type: ignore


def test_a_spreadsheet_computes_no_text():
    table = pd.DataFrame(
        {
            "text": [FORMULA, "+1+cmd|x", "-x", "@sum", "\tx", "plain", "a=b", ""],
            "number": ["-1.5", "+2", "-1e-3", "-.5", "1", "-", "-1.5.2", "-inf"],
            "value": [-1.5, 0.0, 1e-9, float("nan"), 1.0, 2.0, 3.0, float("-inf")],
        }
    )
    safe = without_formulas(table)
    assert safe["text"].tolist() == [f"'{text}" for text in table["text"][:5]] + ["plain", "a=b", ""]
    assert safe["number"].tolist() == ["-1.5", "+2", "-1e-3", "-.5", "1", "'-", "'-1.5.2", "'-inf"]
    assert safe["value"].equals(table["value"]) and safe.to_csv().splitlines()[1].endswith("-1.5,-1.5")


def test_names_do_nothing_to_a_terminal_or_a_csv_file(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run, other = write_run(editor="memit", edits=4), write_run(editor="rome", edits=4)
    rename(run, editor=FORMULA, model=TERMINAL)
    (run / "config.yaml").write_text(json.dumps({"name": TERMINAL, "editor": {"name": TERMINAL}}))
    monkeypatch.setattr("analysis.reports.html_report.charts", lambda *_, **__: [])  # only the tables matter
    assert main(["report", str(tmp_path / "quick"), "--to", str(tmp_path / "to")]) == 0
    assert main(["compare", str(run), str(other)]) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text and "[red]$x_{$" in text
    assert pd.read_csv(tmp_path / "to" / "summary.csv")["editor"].tolist()[0] == f"'{FORMULA}"


def test_a_dollar_and_a_template_in_a_key_are_letters(write_run: WriteRun):
    run = write_run(editor="memit", edits=4)
    key = "mine/$x_{$/%{y}"
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"edits": edits, key: float(edits)}) + "\n" for edits in (5, 6))
    ((_, chart),) = key_charts(collect(run.parent).metrics, [key])
    draw(chart)
    assert plain("%{y}$") == "%&#123;y}&#36;" and key not in interactive(chart).to_json()


def test_two_models_without_scores_have_tables_and_figures(write_run: WriteRun):
    for model in ("tiny-gpt2", "tiny-llama"):
        run = write_run(editor="memit", edits=2, settings={"model": {"name": model}})
        keep_only(run, "norm/", "time/")
        rename(run, model=model)
    collection = collect(run.parent)
    names = [spec.name for spec, _ in charts(collection.metrics)]
    assert "norms" in names and "layer_sweep" not in names
    table = per_series(collection)
    expected = ["unedited · tiny-gpt2", "unedited · tiny-llama", "memit · tiny-gpt2", "memit · tiny-llama"]
    assert table["editor"].tolist() == expected
    assert table["norm ratio"].tolist()[:2] == ["1.000", "1.000"]


def test_blocks_without_end_are_no_blocks(write_run: WriteRun):
    run = write_run(editor="memit", edits=4)
    long = "9" * 30
    keys = (f"norm/frobenius/mlp_down.{long}", f"probe/accuracy/00-{long}", f"edit/retention/{long}")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"edits": 5, **dict.fromkeys(keys, 1.0)}) + "\n")
    assert charts(collect(run.parent).metrics, ["3", "5a", "8b"])


@pytest.mark.parametrize("command", ["report", "figures"])
def test_an_output_that_cannot_be_written_is_named(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
):
    (tmp_path / "file").touch()
    only = ["--only", "norms", "--format", "png"] if command == "figures" else []
    assert main([command, str(experiment), "--to", str(tmp_path / "file" / "below"), *only]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / 'file'}" in message and "cannot be written (Not a directory)" in message
    assert message.rstrip().endswith("choose another place with --to")


def test_a_full_disk_is_named(capsys: pytest.CaptureFixture[str]):
    assert main(["metrics", "--to", "/dev/full"]) == 2
    assert "/dev/full cannot be written (No space left on device)" in capsys.readouterr().err
