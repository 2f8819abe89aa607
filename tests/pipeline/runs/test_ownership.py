"""Whose a run's folder is: names, moved and copied folders, heartbeats, and what a killed process left."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from analysis.results.run_folder import RunFolder
from analysis.results.seal import Seal
from editors import disk
from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import fingerprint, run_name
from pipeline.progress.run_states import run_states
from pipeline.runs import heartbeat
from pipeline.runs.folder import RunBusy, RunDir
from pipeline.runs.layout import folder_of, summary_of
from pipeline.sweeps import plan

ROW = {"step": 0, "edits": 0, "norm/frobenius_ratio/edited": 1.0}


def config(**more: object) -> dict[str, object]:
    """A small configuration."""
    return {"name": "demo", "seed": 0, **more}


# --- names ----------------------------------------------------------------------------------------------

NUMBERS = (1000.0, 1000, True, 1.5, ["a"], {})
NAMES = (
    "cache", "Cache", "models", ".code", ".", "..", "...", "a/b", "a\\b", "-x", "~", "~root", "x.",
    "DONE", "Failed", "config.yaml", "metrics.jsonl",
    "x ", " x", "a\nb", "a\x1b[1m", "\ud800", "x" * 300, "ä" * 101, "",
)  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_a_name_that_is_read_as_a_number_is_refused_with_the_way_to_quote_it(tmp_path: Path, name: object):
    with pytest.raises(ConfigError, match=r"is read as .*, not as text; .* is quoted twice, name='\""):
        folder_of(tmp_path, config(name=name))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_would_be_another_folder_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="cannot name a folder: "):
        folder_of(tmp_path, config(name=name))


@pytest.mark.parametrize("name", ["1e3", "null", "true", "a.b", "a b", "x-1_2", "日本", "=", "x" * 128])
def test_a_text_that_can_name_a_folder_does(tmp_path: Path, name: str):
    assert folder_of(tmp_path, config(name=name)).parent == tmp_path / name


def test_a_name_that_differs_in_case_alone_is_refused_where_the_disk_ignores_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "demo").mkdir()
    folder_of(tmp_path, config(name="Demo"))
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    folder_of(tmp_path, config(name="demo"))
    with pytest.raises(ConfigError, match="differs in case"):
        folder_of(tmp_path, config(name="Demo"))


# --- moved, deleted and copied folders -----------------------------------------------------------------


@pytest.mark.parametrize("act", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("moved"))])
@pytest.mark.parametrize("again", [False, True])
def test_a_run_whose_folder_is_gone_fails_with_a_sentence(
    tmp_path: Path, act: Callable[[Path], None], again: bool
):
    with (
        pytest.raises(DataError, match="was moved or deleted while the run was computed"),
        RunDir(root=tmp_path, config=config()) as run,
    ):
        run.append(ROW)
        keeps = run.folder.open  # an open folder keeps its number from being used again
        assert keeps is not None
        handle = os.open(run.folder, os.O_RDONLY)
        act(run.folder)
        if again:
            run.folder.mkdir()  # as a library that saves a checkpoint does
        try:
            run.finish(objective=1.0)
        finally:
            os.close(handle)
    assert not (run.folder / "DONE").exists() and not (run.folder / "FAILED").exists()


@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.write_text("[1]")])
def test_a_run_whose_heartbeat_is_deleted_or_damaged_ends_as_usual(
    tmp_path: Path, act: Callable[[Path], None]
):
    with RunDir(root=tmp_path, config=config()) as run:
        run.append(ROW)
        act(run.folder / "progress.json")
        run.append(ROW | {"edits": 1})
        run._heartbeat._written = 0.1  # long ago
        run.report_progress([])
        assert heartbeat.read_progress(run.folder) is not None
        run.finish(objective=1.0)
    assert run.done


def test_a_run_that_another_process_ended_is_left_to_it(tmp_path: Path):
    with pytest.raises(RunBusy), RunDir(root=tmp_path, config=config()) as run:
        (run.folder / "progress.json").unlink()
        (run.folder / "DONE").write_text("2026-01-31T12:00:00+00:00")
        run.append(ROW)


def test_rows_that_something_else_wrote_end_the_run(tmp_path: Path):
    with (
        pytest.raises(DataError, match="was changed by something else"),
        RunDir(root=tmp_path, config=config()) as run,
    ):
        run.append(ROW)
        (run.folder / "metrics.jsonl").write_text("")
        run.append(ROW)


def test_a_folder_of_another_run_does_not_answer_for_this_one(tmp_path: Path):
    with RunDir(root=tmp_path, config=config()) as run:
        run.finish(objective=1.0)
    assert summary_of(run.folder)["objective"] == 1.0
    for other in (run_name(config(seed=1)), fingerprint(config(seed=1))):  # as it is and as it was named
        shutil.copytree(run.folder, run.folder.with_name(other))
        with pytest.raises(DataError, match=f"holds the run {run.info.fingerprint}, of another config"):
            summary_of(folder_of(tmp_path, config(seed=1)))


def test_a_renamed_experiment_does_not_answer_for_its_former_name(tmp_path: Path):
    job = plan.PlannedRun(run="0123456789", overrides=("name=a",), invocation="abc")
    plan.merge(tmp_path / "a", [job])
    assert plan.known(tmp_path) == {"abc": tmp_path / "a" / "0123456789"}
    (tmp_path / "a").rename(tmp_path / "b")
    assert plan.known(tmp_path) == {}
    plan.merge(tmp_path / "b", [plan.PlannedRun(run="1", overrides=("name=b",), invocation="def")])
    assert plan.known(tmp_path) == {"def": tmp_path / "b" / "1"}
    assert [job.overrides for job in plan.read(tmp_path / "b")] == [("name=a",), ("name=b",)]


# --- heartbeats -----------------------------------------------------------------------------------------


def beat(**more: object) -> dict[str, object]:
    """The beat of this process, as another one wrote it."""
    born = psutil.Process().create_time()
    now = time.time()
    return {
        "host": socket.gethostname(), "pid": os.getpid(), "born": born, "owner": "them", "started": now,
        "beat": now, "parts": [], **more,
    }  # fmt: skip


def test_a_process_whose_id_belongs_to_a_later_one_is_gone():
    assert not heartbeat.is_gone(beat())
    assert heartbeat.is_gone(beat(born=psutil.Process().create_time() - 60))


def test_a_process_that_ended_and_was_not_waited_for_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        started = time.time()
        while not heartbeat.is_gone(beat(pid=child.pid, born=None)) and time.time() - started < 30:
            time.sleep(0.05)
        assert heartbeat.is_gone(beat(pid=child.pid, born=None))
    finally:
        child.wait()


def test_a_beat_of_the_future_is_no_sign_of_life():
    assert heartbeat.is_gone(beat(host="another", beat=time.time() + 1e6))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pid": "1"}, {"pid": 2**70}, {"pid": -1}, {"pid": True}, {"pid": None}, {"host": 3}, {"owner": None},
        {"beat": "now"}, {"beat": float("nan")}, {"started": []}, {"born": "x"}, {"parts": {}},
        {"parts": [1]},
        {"parts": [{"unit": "edits", "total": "9", "count": 1}]},
        {"parts": [{"unit": "epochs", "total": 9, "count": 1}]},
        {"parts": [{"unit": "edits", "total": 9, "count": -1}]},
        {"parts": [{"unit": "edits", "total": 9}]},
    ],
)  # fmt: skip
def test_a_beat_of_other_types_is_none(tmp_path: Path, wrong: dict[str, object]):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    (folder / "progress.json").write_text(json.dumps(beat(**wrong)))
    assert heartbeat.read_progress(folder) is None
    (state,) = run_states(tmp_path)
    assert state.state == "waiting"


# --- what a killed process leaves -----------------------------------------------------------------------


def test_a_file_is_replaced_complete_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), disk.replacing(path) as part:
        part.write_text("half of")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with disk.replacing(path, durable=True) as part:
        part.write_text("after")
        (part.parent / ".tmpAbC").touch()  # as safetensors does
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_the_next_attempt_removes_what_a_killed_one_left(tmp_path: Path):
    folder = folder_of(tmp_path, config())
    left = [folder / f"{disk.PART}summary.json-x", folder / "updates" / f"{disk.PART}00000000-00000002-x"]
    for part in left:
        part.mkdir(parents=True)
        (part / ".tmpAbC").touch()
    with RunDir(root=tmp_path, config=config()) as run:
        run.append(ROW)
        run.finish(objective=None)
    assert not any(part.exists() for part in left)
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"config.yaml", "provenance.json", "metrics.jsonl", "summary.json", "DONE"}


def test_only_the_parts_of_one_file_are_removed_if_it_is_named(tmp_path: Path):
    for name in ("a", "b", "a-b"):
        (tmp_path / f"{disk.PART}{name}-xyz").mkdir()
    disk.remove_parts(tmp_path, "b")
    assert len(list(tmp_path.iterdir())) == 2


def test_everything_is_on_the_disk_before_a_run_is_marked_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[str] = []
    fsync = os.fsync

    def recording(handle: int) -> None:
        synced.append(os.path.realpath(f"/proc/self/fd/{handle}"))
        fsync(handle)

    with RunDir(root=tmp_path, config=config()) as run:
        run.append(ROW)
        run.record("records", [{"id": "a"}])
        (run.folder / "adapter" / "0").mkdir(parents=True)
        (run.folder / "adapter" / "0" / "adapter_config.json").write_text("{}")
        monkeypatch.setattr(os, "fsync", recording)
        run.finish(objective=None)
    mark = next(i for i, name in enumerate(synced) if "/.part-DONE" in name)
    seal = Seal.read(run.folder / "DONE")
    assert seal is not None and "adapter/0/adapter_config.json" in seal.files
    before = set(synced[:mark])
    assert {str((run.folder / name).resolve()) for name in seal.files} <= before
    assert {str(path.resolve()) for path in (run.folder, run.folder / "adapter" / "0")} <= before
    RunFolder(run.folder).verify("*")
