"""Snapshots and the queue of sweeps on Slurm, tested without a Slurm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.launchers import code_snapshot as copies, slurm_queue
from pipeline.launchers.code_snapshot import snapshot
from pipeline.launchers.slurm_queue import FORGOTTEN, PATIENCE, SETTLED, STUCK, Queue
from pipeline.runs.provenance import GIT, git_state
from tests.slurm.conftest import ROOT


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project in place of ours."""
    root = tmp_path / "project"
    for name in ("pipeline/launch.py", "conf/config.yaml", "pipeline/__pycache__/launch.pyc", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    monkeypatch.setattr(copies, "ROOT", root)
    return root


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_holds_code_and_configuration_and_nothing_else(code: Path, tmp_path: Path):
    copy = snapshot(tmp_path / "copies")
    assert names(copy) == {"pipeline/launch.py", "conf/config.yaml", f"pipeline/{GIT}"}
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [copy.name]


def test_the_same_code_is_copied_once_and_other_code_beside_it(code: Path, tmp_path: Path):
    copy = snapshot(tmp_path / "copies")
    assert snapshot(tmp_path / "copies") == copy
    (code / "conf" / "config.yaml").write_text("seed: 1")
    other = snapshot(tmp_path / "copies")
    assert other != copy
    assert (copy / "conf" / "config.yaml").read_text() == "conf/config.yaml"


def test_a_snapshot_knows_the_commit_that_it_was_made_from(tmp_path: Path):
    copy = snapshot(tmp_path)
    stored = json.loads((copy / "pipeline" / GIT).read_text())
    assert git_state(copy / "pipeline") == git_state(ROOT / "pipeline") == stored


def watched(*jobs: str) -> Queue:
    queue = Queue()
    for job in jobs:
        queue.register_job(job)
    return queue


@pytest.mark.parametrize(
    ("line", "over"),
    [
        ("7_0|RUNNING", False),
        ("7_0|COMPLETED", True),
        ("7_0|OUT_OF_MEMORY", True),
        ("7_0|NODE_FAIL", True),
        # back in the queue after a preemption, held by the user, or its node lent to another job
        ("7_0|PENDING", False),
        ("7_0|COMPLETING", False),
        ("7_0|SUSPENDED", False),
        ("7_0|CONFIGURING", False),
        # Slurm forgets ended jobs after some minutes
        ("7_1|RUNNING", True),
        ("", True),
    ],
)
def test_a_job_is_over_when_slurm_will_not_run_it(monkeypatch: pytest.MonkeyPatch, line: str, over: bool):
    queue = watched("7_0")
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: f"{line}|None\n".encode())
    assert queue.is_done("7_0", mode="force") is over


def test_a_job_that_slurm_does_not_list_is_forgotten():
    assert watched("7_0").read_info(b"") == {"7_0": {"State": FORGOTTEN, "Reason": ""}}


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(slurm_queue, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("PartitionConfig", "launcher.threads"),
        ("PartitionTimeLimit", "hydra.launcher.timeout_min"),
        ("QOSMaxWallDurationPerJobLimit", "hydra.launcher.timeout_min"),
        ("AssocMaxCpuPerJobLimit", "hydra.launcher.qos"),
        ("QOSMaxGRESPerJob", "hydra.launcher.gpus_per_node"),
        ("InvalidAccount", "hydra.launcher.account"),
        # these pass
        ("Resources", ""),
        ("Priority", ""),
        ("JobHeldUser", ""),
        ("ReqNodeNotAvail", ""),
        ("AssocMaxJobsLimit", ""),
        ("QOSGrpCpuLimit", ""),
    ],
)
def test_a_job_is_stuck_once_a_reason_that_cannot_pass_has_lasted(clock: Clock, reason: str, setting: str):
    queue, answer = watched("7_0"), f"7_0|PENDING|{reason}"
    assert queue.read_info(answer)["7_0"]["State"] == "PENDING", "Slurm gives some reasons for a moment"
    clock.now = SETTLED
    assert queue.read_info(answer)["7_0"]["State"] == (STUCK if setting else "PENDING")
    assert setting.split(".")[-1] in slurm_queue.setting_of(reason)
    queue.read_info("7_0|PENDING|Priority")
    assert queue.read_info(answer)["7_0"]["State"] == "PENDING", "its time began again"


def test_reasons_of_jobs_that_wait_long_are_reported_when_they_change(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    queue = watched("7_0", "7_1", "7_2")
    resources = "7_0|PENDING|Resources\n7_1|PENDING|Priority\n7_2|PENDING|Priority\n"
    held = resources.replace("Resources", "JobHeldUser")
    with caplog.at_level("INFO"):
        for clock.now, answer in [
            (PATIENCE - 1, resources),
            (PATIENCE, resources),
            (2 * PATIENCE, resources),
            (3 * PATIENCE, held),
        ]:
            queue.read_info(answer)
    reported = [record.getMessage().split(": ")[1] for record in caplog.records]
    assert reported == ["2 for Priority, 1 for Resources", "2 for Priority, 1 for JobHeldUser"]


def test_while_slurm_does_not_answer_nothing_is_over(monkeypatch: pytest.MonkeyPatch):
    def fails(command: list[str], **_: object) -> bytes:
        raise subprocess.CalledProcessError(1, command)

    queue = watched("7_0")
    monkeypatch.setattr(subprocess, "check_output", fails)
    assert not queue.is_done("7_0", mode="force")


@pytest.mark.parametrize("launcher", ["slurm", "slurm_preempt"])
def test_a_machine_without_slurm_is_a_sentence(tmp_path: Path, launcher: str):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pipeline", f"launcher={launcher}", "tracker=none"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no sbatch" in done.stderr and "Traceback" not in done.stderr
