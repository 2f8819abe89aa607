"""The state of a sweep is read from its folders alone."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from analysis.results.run_folder import RunFolder
from editors.errors import DataError
from pipeline.commands import status
from pipeline.progress.run_states import RunState, run_states, seconds_left
from pipeline.progress.run_table import overview
from pipeline.sweeps import plan
from tests.paths import ROOT


def beat(
    folder: Path, *, host: str, pid: int, age: float, parts: list[dict[str, object]], phase: str = ""
) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    now = time.time()
    content = {
        "host": host,
        "pid": pid,
        "owner": "o",
        "beat": now - age,
        "started": now - 100,
        "parts": parts,
        "phase": phase,
    }
    (folder / "progress.json").write_text(json.dumps(content))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A run of each state; one of them in no plan."""
    seeds = {"done": 0, "failed": 1, "running": 2, "far": 3, "interrupted": 4, "silent": 5, "waiting": 6}
    jobs = [
        plan.PlannedRun(
            run=run, overrides=("editor=rome", "layers.edit=[0,1]", f"seed={seed}"), invocation=None
        )
        for run, seed in seeds.items()
    ]
    plan.merge(tmp_path, jobs)
    for run in ("done", "failed", "single"):
        (tmp_path / run).mkdir()
    for run in ("done", "single"):
        (tmp_path / run / "DONE").write_text("2026-01-31T12:00:00+00:00")
        (tmp_path / run / "summary.json").write_text('{"seconds": 200}')
    outcome = {"edits": 50, "checked": 50, "took": 0}
    (tmp_path / "done" / "summary.json").write_text(json.dumps({"seconds": 200, "outcome": outcome}))
    (tmp_path / "single" / "provenance.json").write_text('{"overrides": ["editor=memit", "tracker=none"]}')
    (tmp_path / "failed" / "FAILED").write_text("there is no [red] fact\n\nTraceback …")
    parts = [{"name": "edit", "unit": "edits", "total": 100, "count": 10}]
    here = socket.gethostname()
    beat(tmp_path / "running", host=here, pid=os.getpid(), age=5, parts=parts)
    beat(tmp_path / "far", host="another", pid=1, age=5, parts=[])
    beat(tmp_path / "interrupted", host=here, pid=2**22 + 1, age=5, parts=parts)
    beat(tmp_path / "silent", host="another", pid=1, age=500, parts=parts)
    rows = [{"part": 0, "edits": 24}, {"part": 0, "edits": 25}]
    text = "".join(f"{json.dumps(row)}\n" for row in rows) + '{"part": 0, "ed'
    (tmp_path / "running" / "metrics.jsonl").write_text(text)
    return tmp_path


def test_every_state_is_recognised(experiment: Path):
    states = {run.run: run.state for run in run_states(experiment)}
    assert states == {
        "done": "done",
        "failed": "failed",
        "running": "running",
        "far": "running",
        "interrupted": "interrupted",
        "silent": "interrupted",
        "waiting": "waiting",
        "single": "done",
    }


def test_the_progress_of_a_run_is_that_of_its_latest_whole_row(experiment: Path):
    (running,) = [run for run in run_states(experiment) if run.run == "running"]
    assert running.message.startswith("25 of 100 edits")
    assert running.left == pytest.approx(300, rel=0.01)


def test_the_phase_of_a_preparation_is_shown_and_that_of_a_long_measurement(tmp_path: Path):
    here, parts = socket.gethostname(), [{"name": "edit", "unit": "edits", "total": 100, "count": 100}]
    phase = "collecting second moments: 12,000 of 100,000 tokens"
    beat(tmp_path / "a", host=here, pid=os.getpid(), age=5, parts=[], phase=phase)
    beat(tmp_path / "b", host=here, pid=os.getpid(), age=5, parts=parts, phase="measuring\x1b efficacy")
    beat(tmp_path / "c", host=here, pid=os.getpid(), age=5, parts=[])
    messages = {run.run: run.message for run in run_states(tmp_path)}
    assert messages["a"] == phase and messages["c"] == "preparing"
    assert messages["b"].startswith("100 of 100 edits, measuring") and "\x1b" not in messages["b"]


def test_the_table_shows_what_differs_and_why_something_failed(experiment: Path):
    console = Console(width=200, record=True)
    console.print(overview(experiment, run_states(experiment)))
    text = console.export_text()
    assert "editor=memit" in text and "layers.edit=[0,1]" in text, "brackets are no markup"
    assert "there is no [red] fact" in text and "Traceback" not in text
    assert text.count("edits took") == 1 and "0 of 50 edits took; in 3 min" in text
    assert "8 runs: 2 done, 1 waiting, 2 interrupted, 1 failed, 2 running; about" in text


def test_time_left_counts_waiting_runs_and_runs_at_a_time():
    def runs(running: int, waiting: int) -> list[RunState]:
        done = RunState(run="a", overrides=(), state="done", seconds=100.0)
        half = RunState(run="b", overrides=(), state="running", share=0.5, seconds=50.0)
        return [done, *[half] * running, *[RunState(run="c", overrides=(), state="waiting")] * waiting]

    assert seconds_left(runs(1, 0)) == 50
    assert seconds_left(runs(1, 3)) == 350
    assert seconds_left(runs(2, 4)) == 250
    assert seconds_left(runs(0, 4)) is None


def test_only_the_end_of_the_numbers_is_read(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("x" * 200_000 + '\n{"edits": 7}\n')
    assert RunFolder(tmp_path).last_row() == {"edits": 7}
    assert RunFolder(tmp_path / "absent").last_row() == {}


def test_a_folder_without_runs_gets_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="holds no run and no plan"):
        run_states(tmp_path)
    assert str(status.main([str(tmp_path / "absent")])).startswith("error: ")


def test_watching_ends_when_nothing_runs_or_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "DONE").write_text("2026-01-31T12:00:00+00:00")
    assert status.main([str(tmp_path), "--watch", "0.1"]) == 0
    assert "1 run: 1 done" in capsys.readouterr().out


def test_the_command_needs_no_torch(experiment: Path):
    check = (
        "import sys; sys.argv = ['x', 'status', sys.argv[1]]\n"
        "from pipeline.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "assert not {'torch', 'pandas', 'transformers'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", check, str(experiment)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "interrupted" in done.stdout
