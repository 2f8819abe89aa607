"""Uploads: a run recreated from its folder equals the run logged by its job, and is uploaded once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock
from omegaconf import DictConfig
from PIL import Image

from analysis.results.run_folder import RunFolder
from editors.errors import DataError
from pipeline.commands.upload import main
from pipeline.launch import launch
from pipeline.runs.folder import RunDir
from pipeline.tracking.base import tracking
from pipeline.tracking.wandb_receipt import digest
from pipeline.tracking.wandb_tracker import Wandb
from tests.pipeline.offline import exit_code, rows_of, wandb_records, wandb_summary

CONFIG = {
    "name": "demo",
    "editor": {"name": "memit"},
    "intervention": {"name": "knowledge_edit"},
    "layers": {"edit": [1]},
    "tracker": {"_target_": "pipeline.tracking.base.TrackerList"},
}
ROWS = [
    {"part": 0, "unit": "edits", "step": n, "edits": n, "steps": 0, "memory/peak_rss/gib": n / 2}
    for n in range(3)
]
ID = "0123456789-2a9751"


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(autouse=True)
def _one_quick_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the figures, which take seconds and have tests of their own."""
    import analysis.plots.run_figures

    def draw(folder: Path, to: Path) -> dict[str, Path]:
        to.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(to / "norms.png")
        return {"norms": to / "norms.png"}

    monkeypatch.setattr(analysis.plots.run_figures, "run_figures", draw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run, written by hand."""
    folder = tmp_path / "outputs" / "demo" / "0123456789"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "provenance.json").write_text('{"git": {"commit": "abc", "dirty": false}}')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pd.DataFrame([{"id": "a", "success": 1.0}]).to_parquet(folder / "records.parquet")
    alarm = {"signature": "norm_growth", "count": 2, "sentence": "twice its norm"}
    (folder / "summary.json").write_text(json.dumps({"objective": 0.5, "alarms": [alarm]}))
    (folder / "DONE").write_text("2026-01-31T12:00:00+00:00\n")
    return folder


def offline(folder: Path) -> list[Path]:
    return list(folder.glob("wandb/offline-run-*"))


def test_an_upload_equals_the_run_logged_by_the_job(composed: Callable[..., DictConfig], tmp_path: Path):
    launch(composed("tracker=wandb", "tracker.mode=offline", "stage=[norms]", "edits=2"), tmp_path)
    (live,) = tmp_path.glob("test/*-*")
    copy = tmp_path / "elsewhere" / live.name
    shutil.copytree(live, copy, ignore=shutil.ignore_patterns("wandb", "uploaded.json", "figures"))
    assert main([str(copy.parent), "--mode", "offline"]) == 0
    before, after = wandb_records(live), wandb_records(copy)
    kinds = ("run_id", "run_group", "job_type", "display_name", "project")
    opened = [next(record["run"] for record in records if "run" in record) for records in (before, after)]
    assert [opened[0][kind] for kind in kinds] == [opened[1][kind] for kind in kinds]
    numbers = [
        [row for row in rows_of(records) if "step" in row or "edits" in row] for records in (before, after)
    ]
    assert [row for row in numbers[0] if "memory/peak_rss/gib" in row] == [
        row for row in numbers[1] if "memory/peak_rss/gib" in row
    ]
    assert len(numbers[0]) == len(numbers[1]) > 4
    assert [set(row) for row in numbers[0]] == [set(row) for row in numbers[1]], "figures and tables as well"
    summaries = [wandb_summary(folder) for folder in (live, copy)]
    config = [
        {key: value for key, value in summary["config"].items() if key[:7] != "archive"}
        for summary in summaries
    ]
    assert config[0] == config[1]
    assert summaries[0]["config"]["archive/digest"] == summaries[1]["config"]["archive/digest"]
    assert (
        summaries[0]["summary"]["norm/frobenius_ratio/edited"]
        == summaries[1]["summary"]["norm/frobenius_ratio/edited"]
    )


def test_equal_content_is_uploaded_once_and_other_content_replaces_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "wandb" / f"offline-run-20260101_000000-{ID}").mkdir(parents=True)
    (folder / "wandb" / f"offline-run-20260101_000000-{ID}" / f"run-{ID}.wandb").write_bytes(b":W&B\0\0\0")
    assert main([str(folder)]) == 0
    (first,) = offline(folder)  # the one of a killed job is removed
    records = wandb_records(folder)
    assert exit_code(records) == 0
    assert [row["memory/peak_rss/gib"] for row in rows_of(records) if "memory/peak_rss/gib" in row] == [
        0,
        0.5,
        1,
    ]
    tables = rows_of(records)[-1]
    assert (tables["tables/records.nrows"], tables["tables/alarms.nrows"]) == (1, 1)
    assert wandb_summary(folder)["summary"]["objective"] == 0.5
    assert not any("stats" in record for record in records), "this machine did not compute the run"
    capsys.readouterr()
    assert main([str(folder.parent)]) == 0
    assert "holds it already" in capsys.readouterr().out
    assert offline(folder) == [first]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"edits": 3, "memory/peak_rss/gib": 9}\n')
    assert main([str(folder)]) == 0
    assert len(offline(folder)) == 1
    assert wandb_summary(folder)["summary"]["edits"] == 3


@pytest.mark.parametrize("state", ["failed", "unfinished"])
def test_the_rows_of_an_unfinished_run_are_uploaded(
    folder: Path, capsys: pytest.CaptureFixture[str], state: str
):
    (folder / "DONE").unlink()
    (folder / "summary.json").unlink()
    if state == "failed":
        (folder / "FAILED").write_text("there was no memory left\n\nTraceback")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"edits": 3, "memory/pea')
    (folder / "records.parquet").write_bytes(b"PAR1 torn")
    assert main([str(folder)]) == 0
    output = capsys.readouterr().out
    assert "skipped 1 unreadable line(s) of metrics.jsonl, first line 4." in output
    assert "left out records.parquet" in output
    summary = wandb_summary(folder)
    assert summary["state"].startswith("failed") and summary["summary"]["edits"] == 2
    assert summary["config"]["archive/state"] == state
    reason = "there was no memory left" if state == "failed" else None
    assert summary["config"].get("archive/reason") == reason


@pytest.mark.parametrize("heartbeat", [None, "{}", "[]", '{"host": "gone", "pid": 1}'])
def test_a_run_that_is_being_computed_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], heartbeat: str | None
):
    if heartbeat is not None:
        (folder / "progress.json").write_text(heartbeat)
    with FileLock(folder / ".lock"):
        assert main([str(folder)]) == 0
    assert "being computed" in capsys.readouterr().out
    assert not offline(folder)


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_uploaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    broken = folder.parent / "00"
    broken.mkdir()
    (broken / "config.yaml").write_text("{")
    assert main([str(folder.parent)]) == 1
    assert "00: error: " in (output := capsys.readouterr().out) and "config.yaml cannot be read" in output
    assert len(offline(folder)) == 1
    assert main([str(folder.parent.parent)]) == 1
    assert "is no run and holds none" in capsys.readouterr().err


def test_an_interrupted_run_has_the_tables_of_its_newest_complete_state(folder: Path):
    for name in ("DONE", "summary.json"):
        (folder / name).unlink()
    for part, count, size in ((0, 9, 10), (1, 1, 20), (1, 2, None)):
        tables = folder / "state" / str(part) / f"checkpoint-{count}" / "tables"
        tables.mkdir(parents=True)
        for name in ("edits", "records"):
            pd.DataFrame([{"id": "a"}] * (part + count + 1)).to_parquet(tables / f"{name}.parquet")
        if size is not None:
            (tables.parent / "run.json").write_text(json.dumps({"size": size}))
    tables = RunFolder(folder).tables()[0]
    assert {name: len(rows) for name, rows in tables.items()} == {"edits": 3, "records": 1}
    (folder / "records.parquet").unlink()
    assert main([str(folder)]) == 0
    tables = rows_of(wandb_records(folder))[-1]
    assert (tables["tables/edits.nrows"], tables["tables/records.nrows"]) == (3, 3)


def test_a_run_logged_with_its_outcome_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A run whose figures failed is done, but failed at W&B: it is uploaded."""

    def broken(at: str) -> Path:
        with (
            pytest.raises(DataError),
            RunDir(root=tmp_path, config=CONFIG | {"seed": int(at == "figures")}) as run,
            tracking(Wandb(mode="offline"), CONFIG, run.info),
        ):
            run.append(ROWS[0])
            run.record("records", [{"id": "a"}])
            if at == "figures":
                run.finish(objective=None)
            raise DataError("the third fact is odd")
        return run.folder

    failed, done = broken("edits"), broken("figures")
    assert (failed / "FAILED").exists() and (failed / "records.parquet").exists() and (done / "DONE").exists()
    assert [exit_code(wandb_records(run)) for run in (failed, done)] == [1, 1]
    assert main([str(failed)]) == 0
    assert "holds it already" in capsys.readouterr().out
    assert main([str(done)]) == 0
    assert "holds it already" not in capsys.readouterr().out
    assert exit_code(wandb_records(done)) == 0
    assert main([str(done)]) == 0
    assert "holds it already" in capsys.readouterr().out


class Server:
    """The few calls of W&B that an upload makes online."""

    def __init__(self, folder: Path, there: SimpleNamespace | None) -> None:
        self.folder, self.there = folder, there
        self.queried: list[str] = []
        self.opened: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.codes: list[int] = []
        self.offline = self.disabled = False
        self.settings = SimpleNamespace(sync_dir=str(folder / "wandb" / "run-now"))

    def run(self, path: str) -> SimpleNamespace:
        self.queried.append(path)
        if self.there is None:
            raise ValueError(f"Could not find run <Run {path}>")
        return self.there

    def init(self, **arguments: Any) -> "Server":
        self.opened.append(arguments)
        self.id, self.project = arguments["id"], arguments["project"]
        self.config = SimpleNamespace(update=lambda new, **_: arguments["config"].update(new))  # pyright: ignore
        return self

    def define_metric(self, name: str, **_: object) -> None:
        assert name

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.mark.parametrize(
    ("state", "same", "again", "written"),
    [
        (None, False, False, True),
        ("finished", True, False, False),
        ("finished", False, False, False),
        ("finished", False, True, True),
        ("running", False, False, False),
        ("crashed", False, False, True),
        ("failed", False, False, True),
        ("failed", True, False, True),  # its figures were interrupted
    ],
)
def test_online_a_run_is_overwritten_if_incomplete_or_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, same: bool, again: bool, written: bool
):
    import wandb

    config = {"archive/digest": digest(folder) if same else "other"}
    server = Server(folder, state and SimpleNamespace(state=state, config=config))  # pyright: ignore
    monkeypatch.setattr(wandb, "Api", lambda: server)
    monkeypatch.setattr(wandb, "init", server.init)
    arguments = [str(folder), "--mode", "online", "--project", "p", "--entity", "e", *(["--again"] * again)]
    assert main(arguments) == 0
    assert server.queried == ([] if again else [f"e/p/{ID}"])
    assert len(server.opened) == written
    if written:
        (opened,) = server.opened
        assert (opened["id"], opened["project"], opened["entity"], opened["group"]) == (ID, "p", "e", "demo")
        assert opened["config"]["archive/digest"] == digest(folder)
        assert server.codes == [0] and len(server.rows) >= len(ROWS)
        assert main(arguments[:7]) == 0
        assert len(server.opened) == 1, "the receipt in the folder is enough to leave it out"


def test_without_an_answer_an_upload_ends_with_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import wandb

    def silent() -> None:
        raise wandb.Error("timed out")

    monkeypatch.setattr(wandb, "Api", silent)
    assert main([str(folder), "--mode", "online"]) == 1
    assert "did not answer (timed out): try --mode offline" in capsys.readouterr().err
