"""Sweeps on a real Slurm of one node: what a user types, what comes out, and what dies on the way."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, Cluster, Sweep

pytestmark = pytest.mark.slurm
HELD = "+hydra.launcher.additional_parameters.hold=true"


def numbers(run: Path) -> list[dict]:
    """The rows of a run without what differs from one computation to the next."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


def summary(run: Path) -> dict:
    told = json.loads((run / "summary.json").read_text())
    told["metrics"] = {k: v for k, v in told["metrics"].items() if not k.startswith(("time/", "memory/"))}
    return {k: v for k, v in told.items() if k != "seconds"}


def copied(folder: Path) -> Path:
    """A checkout to edit."""
    for name in ("analysis", "conf", "editors", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_sweep_runs_with_the_code_of_the_moment_when_it_was_queued(cluster: Cluster, tmp_path: Path):
    checkout = copied(tmp_path / "checkout")
    sweep = cluster.start(
        checkout, "launcher=slurm", "editor=ft,ft_l", "seed=0,1", "edits=2", HELD, code=checkout
    )
    job = sweep.job()
    for spoilt in ("editors/errors.py", "pipeline/launch.py", "pipeline/slurm.py"):
        (checkout / spoilt).write_text("raise RuntimeError('edited after the sweep was queued')\n")
    shutil.rmtree(checkout / "conf")
    cluster.ask("scontrol", "release", job)
    assert sweep.ended() == 0, sweep.told
    assert sweep.marks() == ["DONE"] * 4
    assert len(list(checkout.glob("outputs/test/.code/*"))) == 1
    told = json.loads(sweep.runs("provenance.json")[0].read_text())
    assert "editor=ft,ft_l" in told["command"], "a run knows the command that its sweep was started with"


def test_a_run_that_fails_spoils_no_other(cluster: Cluster, tmp_path: Path):
    sweep = cluster.start(tmp_path, "launcher=slurm", "edits=9999,2")
    assert sweep.ended() == 1
    assert sweep.marks() == ["DONE", "FAILED"]
    assert "edits=9999, but data=world has only" in sweep.told and "Traceback" not in sweep.told


@pytest.mark.parametrize("kind", ["cluster", "accounted"])
def test_a_job_that_is_killed_is_told_and_spoils_no_other(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
):
    sweep = request.getfixturevalue(kind).start(tmp_path, "launcher=slurm", "seed=0,1", "edits=2")
    sweep.task(0).kill()
    assert sweep.ended() == 1
    assert sweep.marks() == ["DONE"]
    assert f"Slurm job {sweep.job()}_0 died (Slurm says FAILED)" in sweep.told
    assert "_log.err" in sweep.told and "Killed" in sweep.told, "the log is named, and its end is shown"
    assert "Traceback" not in sweep.told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_jobs_outlive_the_command_that_queued_them(cluster: Cluster, tmp_path: Path, number: signal.Signals):
    sweep = cluster.start(tmp_path, "launcher=slurm", "seed=0,1", HELD)
    job = sweep.job()
    sweep.until(lambda: set(cluster.states()) >= {f"{job}_0", f"{job}_1"})
    sweep.process.send_signal(number)
    assert sweep.ended() == 128 + number
    assert f"scancel {job}" in sweep.told and "Traceback" not in sweep.told
    assert cluster.states()[f"{job}_1"] == "PENDING"
    cluster.ask("scancel", job)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("hydra.launcher.partition=nowhere", "Invalid partition name"),
        ("hydra.launcher.gpus_per_node=1", "Invalid generic resource"),
        ("+hydra.launcher.nicer=1", "Unknown argument 'nicer'"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(
    cluster: Cluster, tmp_path: Path, argument: str, sentence: str
):
    sweep = cluster.start(tmp_path, "launcher=slurm", argument)
    assert sweep.ended() == 1
    assert sweep.told.count(sentence) == 1 and "hydra.launcher" in sweep.told
    assert "Traceback" not in sweep.told


def resumed(sweep: Sweep) -> None:
    """Wait until the job has been queued again, and start it without Slurm's delay of two minutes."""
    job = f"{sweep.job()}"
    sweep.until(lambda: "PENDING" in [state for name, state in sweep.cluster.states().items() if job in name])
    sweep.cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def interrupted(sweep: Sweep, rows: int) -> None:
    """Wait until the run has as many rows."""
    sweep.until(lambda: any(len(numbers(path.parent)) >= rows for path in sweep.runs("metrics.jsonl")))


LONG = ["edits=400", "seed=3"]


def test_a_preempted_run_goes_on_where_it_was(cluster: Cluster, tmp_path: Path):
    sweep = cluster.start(tmp_path / "there", "launcher=slurm_preempt", *LONG)
    interrupted(sweep, 60)
    job = sweep.job()
    cluster.ask("scancel", "--signal=USR2", job)
    resumed(sweep)
    assert sweep.ended() == 0, sweep.told
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", job)
    (run,) = [path.parent for path in sweep.runs("DONE")]
    whole = cluster.start(tmp_path / "here", *LONG)
    assert whole.ended() == 0, whole.told
    other = tmp_path / "here" / run.relative_to(tmp_path / "there")
    assert numbers(run) == numbers(other)
    assert summary(run) == summary(other)
