"""Interrupted runs: checkpoints, signals, heartbeats, and errors of the machine."""

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from omegaconf import DictConfig
from safetensors.torch import load_file

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from editors.phases import Phase
from pipeline.launch import launch
from pipeline.runs import checkpoint_store as states, heartbeat, provenance
from pipeline.runs.folder import RunBusy, RunDir
from pipeline.runs.machine_errors import MachineError, as_machine_error
from pipeline.runs.signals import Interrupted, Requests
from pipeline.tracking.observer import Observer
from tests.pipeline.test_experiment import EVERY, QUICK

Composed = Callable[..., DictConfig]
HISTORY = ["regularizer=[history]", "edits=6", "intervention.save_every=2", "stage=[norms]"]


class Cut(Exception):
    """The end of a process."""


def at_row(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[], None]) -> None:
    """Let something happen once the next run has written so many rows."""
    look, looks = Observer.look, []

    def looking(self: Observer, *arguments: object) -> bool:
        go = look(self, *arguments)  # pyright: ignore
        looks.append(go)
        if len(looks) == number:
            happens()
        return go

    monkeypatch.setattr(Observer, "look", looking)


def cut() -> None:
    raise Cut


def interrupted(
    composed: Composed, root: Path, monkeypatch: pytest.MonkeyPatch, *more: str, row: int
) -> Path:
    """The folder of a run that ended abruptly after so many rows."""
    with monkeypatch.context() as patch, pytest.raises(Cut):
        at_row(patch, row, cut)
        launch(composed(*HISTORY, *more), root)
    return only_run(root)


def only_run(root: Path) -> Path:
    (folder,) = (root / "test").glob("*-*")
    return folder


def numbers(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


def reference(composed: Composed, root: Path, *more: str) -> list[dict]:
    launch(composed(*HISTORY, *more), root / "whole")
    return numbers(only_run(root / "whole"))


# --- states ---------------------------------------------------------------------------------------------


def test_every_stage_and_table_continues_as_without_interruption(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cadences = [f"stage.{name}.cadence.every=1" for name in ("norms", "spectra", "efficacy")]
    stages = [f"stage=[{EVERY},signatures]", "stage.signatures.norm_growth=1.0001", *QUICK, *cadences]
    expected = reference(composed, tmp_path, *stages)
    folder = interrupted(composed, tmp_path / "cut", monkeypatch, *stages, row=6)
    launch(composed(*HISTORY, *stages), tmp_path / "cut")
    assert numbers(folder) == expected
    whole = only_run(tmp_path / "whole")
    for name in ("records", "edits"):
        one, two = (pd.read_parquet(each / f"{name}.parquet") for each in (whole, folder))
        pd.testing.assert_frame_equal(one, two)
    summaries = [json.loads((each / "summary.json").read_text()) for each in (whole, folder)]
    assert summaries[0]["alarms"] == summaries[1]["alarms"] and summaries[0]["alarms"]
    assert summaries[0]["outcome"] == summaries[1]["outcome"] and summaries[0]["outcome"]["checked"]
    assert not (folder / "state").exists() and not (folder / "progress.json").exists()


def test_history_is_written_once(composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint itself holds only the edited matrices."""
    folder = interrupted(composed, tmp_path, monkeypatch, row=6)  # the start and five edits
    part = folder / "state" / "0"
    assert {path.name for path in part.iterdir()} == {"history", "checkpoint-2", "checkpoint-4"}
    pieces = {path.name: load_file(path) for path in (part / "history").iterdir()}
    assert set(pieces) == {"00000000-00000002.safetensors", "00000002-00000004.safetensors"}
    assert all(piece["keys.0"].shape[1] == 2 for piece in pieces.values())
    assert set(load_file(part / "checkpoint-4" / "weights.safetensors")) == {"mlp_down.00", "mlp_down.01"}


def _truncate(part: Path) -> None:
    path = part / "checkpoint-4" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _of_another_run(part: Path) -> None:
    path = part / "checkpoint-4" / "run.json"
    path.write_text(
        path.read_text().replace(f'"run": "{RunFolder(part.parents[1]).fingerprint}"', '"run": "0123456789"')
    )


def _half_a_sentence(part: Path) -> None:
    path = part / "checkpoint-4" / "run.json"
    path.write_text(path.read_text()[:30])


def _without_rows(part: Path) -> None:
    path = part.parents[1] / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))


def _another_row(part: Path) -> None:
    path = part.parents[1] / "metrics.jsonl"
    path.write_text(path.read_text().replace('"edits": 3', '"edits": 2'))


def _piece_is_gone(part: Path) -> None:
    (part / "history" / "00000002-00000004.safetensors").unlink()


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _of_an_update(part: Path) -> None:
    _flip_a_bit(part.parents[1] / "updates" / "00000002-00000004.safetensors")


def _another_number(part: Path) -> None:
    path = part / "checkpoint-4" / "run.json"
    path.write_text(path.read_text().replace('"steps": 0', '"steps": 1'))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_truncate, "weights.safetensors has changed since it was written"),
        (_of_another_run, "it belongs to the run 0123456789"),
        (_half_a_sentence, "checkpoint-4 cannot be used"),
        (_without_rows, "metrics.jsonl has lost rows"),
        (_another_row, "rows of metrics.jsonl have changed"),
        (_piece_is_gone, "No such file"),
        (_of_an_update, "updates/00000002-00000004.safetensors has changed since it was written"),
        (_another_number, "run.json has changed since it was written"),
    ],
)
def test_a_broken_checkpoint_is_reported_and_the_older_one_is_used(
    composed: Composed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    sentence: str,
):
    keep = "intervention.keep_updates=true"
    expected = reference(composed, tmp_path, keep)
    folder = interrupted(composed, tmp_path / "cut", monkeypatch, keep, row=6)
    damage(folder / "state" / "0")
    with caplog.at_level("INFO"):
        launch(composed(*HISTORY, keep), tmp_path / "cut")
    assert sentence in caplog.text and "checkpoint-4 cannot be used" in caplog.text
    assert "resuming from" in caplog.text and "checkpoint-2" in caplog.text
    assert numbers(folder) == expected
    for name in (f"updates/0000000{n}-0000000{n + 2}.safetensors" for n in (0, 2, 4)):
        assert (folder / name).read_bytes() == (only_run(tmp_path / "whole") / name).read_bytes()


def test_a_run_whose_checkpoints_are_all_broken_is_refused_and_loses_nothing(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep = "intervention.keep_updates=true"
    folder = interrupted(composed, tmp_path, monkeypatch, keep, row=6)
    damaged = folder / "updates" / "00000000-00000002.safetensors"
    _flip_a_bit(damaged)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"updates/00000000-00000002\.safetensors has .*: resume=never"):
        launch(composed(*HISTORY, keep), tmp_path)
    kept = {path: path.read_bytes() for path in before if path.name not in ("progress.json", "FAILED")}
    assert "there is no older one that can: resume=never" in (folder / "FAILED").read_text()
    assert kept.items() <= before.items() and not (folder / "DONE").exists()
    launch(composed(*HISTORY, keep, "resume=never"), tmp_path)
    assert damaged.read_bytes() != before[damaged] and (folder / "DONE").exists()


def test_a_checkpoint_of_other_code_is_refused_unless_forced(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = interrupted(composed, tmp_path, monkeypatch, row=6)
    before = (folder / "metrics.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(states, "code_versions", lambda: provenance.code_versions() | {"torch": "9.9"})
        with pytest.raises(ConfigError, match=r"other code \(torch .* -> 9\.9\): resume=force"):
            launch(composed(*HISTORY), tmp_path)
        assert (folder / "metrics.jsonl").read_text() == before  # nothing is lost
        launch(composed(*HISTORY, "resume=force"), tmp_path)
    assert (folder / "DONE").is_file()


def test_a_checkpoint_records_the_code_of_its_process(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = interrupted(composed, tmp_path, monkeypatch, row=6)
    versions = [json.loads(path.read_text())["code"] for path in folder.glob("state/0/*/run.json")]
    assert versions == [dict(provenance.code_versions())] * 2
    # read once: files may change while a process runs
    assert provenance.code_versions() is provenance.code_versions()


def test_changed_data_are_reported_instead_of_being_mixed(
    composed: Composed, tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
):
    facts = tmp_path / "facts.jsonl"
    facts.write_text((inputs / "facts.jsonl").read_text())
    folder = interrupted(composed, tmp_path / "cut", monkeypatch, f"data.path={facts}", row=6)
    facts.write_text(facts.read_text().replace("French", "Danish"))
    with pytest.raises(ConfigError, match=r"facts\.jsonl .*: resume=never"):
        launch(composed(*HISTORY, f"data.path={facts}"), tmp_path / "cut")
    launch(composed(*HISTORY, f"data.path={facts}", "resume=never"), tmp_path / "cut")
    assert (folder / "DONE").is_file()
    facts.write_text(facts.read_text().replace("Danish", "French"))
    with pytest.raises(ConfigError, match="has changed since"):
        launch(composed(*HISTORY, f"data.path={facts}"), tmp_path / "cut")


def test_files_of_an_alarm_remain_and_attempts_are_recorded(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alarms = ["stage=[norms,signatures]", "stage.signatures.norm_growth=1.000001"]
    alarms += ["stage.signatures.on_alarm=checkpoint"]
    folder = interrupted(composed, tmp_path, monkeypatch, *alarms, row=6)
    (saved,) = (folder / "checkpoints").iterdir()
    launch(composed(*HISTORY, *alarms), tmp_path)
    assert saved.is_file()
    written = json.loads((folder / "provenance.json").read_text())
    assert len(written["earlier"]) == 1 and written["earlier"][0]["started"] <= written["started"]


def test_a_job_that_slurm_queued_again_always_resumes(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    interrupted(composed, tmp_path, monkeypatch, row=6)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with caplog.at_level("INFO"):
        launch(composed(*HISTORY, "resume=never"), tmp_path)
    assert "resuming from" in caplog.text


def test_resume_never_starts_from_the_beginning(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    interrupted(composed, tmp_path, monkeypatch, row=6)
    with caplog.at_level("INFO"):
        launch(composed(*HISTORY, "resume=never"), tmp_path)
    assert "resuming" not in caplog.text


# --- signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_saves_a_checkpoint_at_the_end_of_the_step(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    """The run leaves there, and resumes later with the same numbers."""
    expected = reference(composed, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        at_row(patch, 4, lambda: os.kill(os.getpid(), number))
        launch(composed(*HISTORY), tmp_path / "cut")
    folder = only_run(tmp_path / "cut")
    assert left.value.code == 128 + number
    assert (folder / "state" / "0" / "checkpoint-3" / "run.json").is_file()
    assert not (folder / "FAILED").exists() and (folder / "progress.json").is_file()
    assert len(numbers(folder)) == 4
    launch(composed(*HISTORY), tmp_path / "cut")
    assert numbers(folder) == expected


def test_a_run_that_is_asked_to_leave_at_its_end_ends_first(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    finish = RunDir.finish

    def finishing(self: RunDir, **fields: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        finish(self, **fields)  # pyright: ignore

    monkeypatch.setattr(RunDir, "finish", finishing)
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        launch(composed(*HISTORY), tmp_path)
    assert (only_run(tmp_path) / "DONE").is_file()


def test_usr1_saves_and_the_run_continues(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints = []

    def look() -> None:
        checkpoints.extend(path.name for path in only_run(tmp_path).glob("state/0/*"))
        raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        at_row(patch, 4, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        at_row(patch, 5, look)
        launch(composed(*HISTORY), tmp_path)
    assert "checkpoint-3" in checkpoints


def test_a_second_request_or_one_before_the_first_step_acts_at_once():
    with Requests() as requests:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
        with requests.stepping():
            os.kill(os.getpid(), signal.SIGTERM)
            assert requests.leave == signal.SIGTERM and requests.pending
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Interrupted):
                requests.answered()


def test_the_earlier_handler_of_a_signal_is_called_last():
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        requests = Requests()
        with pytest.raises(Interrupted) as raised, requests:
            os.kill(os.getpid(), signal.SIGUSR2)
        assert not heard
        with pytest.raises(SystemExit, match=str(128 + signal.SIGUSR2)):
            requests.depart(raised.value)
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


# --- signs of life --------------------------------------------------------------------------------------


def config(**more: object) -> dict[str, object]:
    return {"name": "demo", "seed": 0, **more}


def elsewhere(folder: Path, *, silent: float) -> None:
    """As if a process of another host computed the run, silent for so many seconds."""
    beat = time.time() - silent
    last_beat = {"host": "another", "pid": 1, "owner": "them", "started": beat, "beat": beat, "parts": []}
    (folder / "progress.json").write_text(json.dumps(last_beat))


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A run folder that a lock nobody gives back stands on, as a lock of a host that is gone."""
    folder = RunDir(root=tmp_path, config=config()).folder
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        yield folder


def test_a_heartbeat_holds_process_and_progress(tmp_path: Path):
    with RunDir(root=tmp_path, config=config()) as run:
        first = heartbeat.read_progress(run.folder)
        assert first is not None and (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
        assert not heartbeat.is_gone(first)
        run.report_progress([{"name": "a", "unit": "edits", "total": 4, "count": 1}])
        run._heartbeat._written = 0.1  # long ago
        run.report_progress([{"name": "a", "unit": "edits", "total": 4, "count": 2}])
        second = heartbeat.read_progress(run.folder)
        assert second is not None and second["parts"][0]["count"] == 2
        run.finish(objective=None)
        assert heartbeat.read_progress(run.folder) is None
    assert heartbeat.read_progress(run.folder) is None


def test_a_heartbeat_holds_the_present_phase_within_a_second(tmp_path: Path):
    def phase() -> str:
        return (heartbeat.read_progress(run.folder) or {})["phase"]

    with RunDir(root=tmp_path, config=config()) as run:
        run._heartbeat._written = 0.1  # long ago
        run.report_phase(Phase(name="collecting second moments", count=5, total=20, unit="tokens"))
        assert phase() == "collecting second moments: 5 of 20 tokens"
        run.report_phase(Phase(name="measuring norms"))  # too soon to be written by the run itself
        until = time.monotonic() + 20
        while phase() != "measuring norms":
            assert time.monotonic() < until
            time.sleep(0.02)
        run._heartbeat._written = 0.1
        run.report_progress([{"name": "a", "unit": "edits", "total": 4, "count": 1}])
        assert not phase(), "a step ends the phase"


def test_the_lock_of_a_silent_host_is_taken_over(
    tmp_path: Path, locked: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(heartbeat, "WATCHED", 0)
    elsewhere(locked, silent=heartbeat.SILENCE / 2)
    with pytest.raises(RunBusy):
        RunDir(root=tmp_path, config=config()).__enter__()
    elsewhere(locked, silent=heartbeat.SILENCE * 2)
    with RunDir(root=tmp_path, config=config()) as run:
        run.append({"edits": 0})


def test_a_process_whose_run_was_taken_over_writes_no_rows(tmp_path: Path):
    with pytest.raises(RunBusy, match="took over"), RunDir(root=tmp_path, config=config()) as run:
        run.append({"edits": 0})
        elsewhere(run.folder, silent=0)
        run.append({"edits": 1})
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (run.folder / "FAILED").exists()  # it belongs to the other one


def test_a_lock_of_this_host_is_never_taken_over(tmp_path: Path, locked: Path):
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "owner": "them", "beat": 0.0}
    (locked / "progress.json").write_text(json.dumps(dead))
    with pytest.raises(RunBusy):
        RunDir(root=tmp_path, config=config()).__enter__()


def test_a_dead_process_of_this_host_is_gone():
    last_beat = {"host": socket.gethostname(), "pid": 2**22 + 1, "beat": time.time()}
    assert heartbeat.is_gone(last_beat) and not heartbeat.is_gone(last_beat | {"pid": os.getpid()})


# --- what a machine refuses -----------------------------------------------------------------------------


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_reported_and_loses_no_written_row(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = reference(composed, tmp_path)
    with (
        monkeypatch.context() as patch,
        pytest.raises(MachineError, match=r"No space left .* free some"),
    ):
        at_row(patch, 6, lambda: patch.setattr(os, "fsync", full))
        launch(composed(*HISTORY), tmp_path / "full")
    folder = only_run(tmp_path / "full")
    assert numbers(folder) == expected[:6]
    launch(composed(*HISTORY), tmp_path / "full")
    assert numbers(folder) == expected


def test_a_failure_of_the_machine_is_marked_with_its_sentence(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def exhausted() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nand a long list")

    with monkeypatch.context() as patch, pytest.raises(MachineError):
        at_row(patch, 3, exhausted)
        launch(composed(*HISTORY), tmp_path)
    failed = (only_run(tmp_path) / "FAILED").read_text()
    assert failed.startswith("there is not enough memory (CUDA out of memory. Tried to allocate 20.00 MiB):")
    assert "Traceback" in failed
    assert len(numbers(only_run(tmp_path))) == 3


def test_other_errors_are_unchanged():
    with pytest.raises(RuntimeError, match="shapes"), as_machine_error():
        raise RuntimeError("shapes do not match")
    with pytest.raises(MachineError, match="not enough memory"), as_machine_error():
        raise MemoryError
    with pytest.raises(MachineError, match="could not be written"), as_machine_error():
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 532")


def test_resume_never_leaves_a_run_in_progress_alone(tmp_path: Path):
    with RunDir(root=tmp_path, config=config()) as run:
        (run.folder / "state" / "0").mkdir(parents=True)
        with pytest.raises(RunBusy):
            RunDir(root=tmp_path, config=config(resume="never")).__enter__()
        assert (run.folder / "state" / "0").is_dir()
