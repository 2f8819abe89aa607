"""Snapshots and the queue of sweeps on Slurm, tested without a Slurm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.launchers import code_snapshot as copies
from pipeline.launchers.code_snapshot import snapshot
from pipeline.launchers.slurm import FORGOTTEN, Queue
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
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: f"{line}\n".encode())
    assert queue.is_done("7_0", mode="force") is over


def test_a_job_that_slurm_does_not_list_is_forgotten():
    assert watched("7_0").read_info(b"") == {"7_0": {"State": FORGOTTEN}}


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
