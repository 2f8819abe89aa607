"""Sweeps on a real Slurm of one node: what a user types, what comes out, and what dies on the way."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, Cluster, Sweep

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]  # they share one cluster
HELD = "+hydra.launcher.additional_parameters.hold=true"


def lasting(metrics: dict) -> dict:
    """The metrics that are the same whenever a run is computed."""
    return {key: value for key, value in metrics.items() if not key.startswith(("time/", "memory/"))}


def numbers(run: Path) -> list[dict]:
    return [lasting(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(run: Path) -> dict:
    content = json.loads((run / "summary.json").read_text())
    return content | {"metrics": lasting(content["metrics"]), "seconds": None}


def copied(folder: Path) -> Path:
    """A checkout to edit."""
    for name in ("analysis", "conf", "editors", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_sweep_runs_the_code_of_the_moment_of_submission(cluster: Cluster, tmp_path: Path):
    checkout = copied(tmp_path / "checkout")
    sweep = cluster.start(checkout, "launcher=slurm", "editor=ft,ft_l", "edits=2", HELD, code=checkout)
    job = sweep.job()
    for spoilt in ("editors/errors.py", "pipeline/launch.py", "pipeline/launchers/slurm.py"):
        (checkout / spoilt).write_text("raise RuntimeError('edited after the sweep was queued')\n")
    shutil.rmtree(checkout / "conf")
    cluster.ask("scontrol", "release", job)
    assert sweep.ended() == 0, sweep.output
    assert sweep.marks() == ["DONE"] * 2
    assert len(list(checkout.glob("outputs/test/.code/*"))) == 1
    provenance = json.loads(sweep.runs("provenance.json")[0].read_text())
    assert "editor=ft,ft_l" in provenance["command"], "the command of the sweep is recorded"


def test_a_failed_run_stops_no_other(cluster: Cluster, tmp_path: Path):
    sweep = cluster.start(tmp_path, "launcher=slurm", "edits=9999,2")
    assert sweep.ended() == 1
    assert sweep.marks() == ["DONE", "FAILED"]
    assert "edits=9999, but world has only" in sweep.output and "Traceback" not in sweep.output


@pytest.mark.parametrize("kind", ["cluster", "accounted"])
def test_a_killed_job_is_reported_and_stops_no_other(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
):
    sweep = request.getfixturevalue(kind).start(tmp_path, "launcher=slurm", "seed=0,1", "edits=2")
    sweep.task(0).kill()
    assert sweep.ended() == 1
    assert sweep.marks() == ["DONE"]
    assert f"Slurm job {sweep.job()}_0 died (Slurm says FAILED, NonZeroExitCode)" in sweep.output
    assert "_log.err" in sweep.output and "Killed" in sweep.output, (
        "the message has the path and the end of the log"
    )
    assert "Traceback" not in sweep.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_jobs_outlive_the_command_that_queued_them(cluster: Cluster, tmp_path: Path, number: signal.Signals):
    sweep = cluster.start(tmp_path, "launcher=slurm", "seed=0,1", HELD)
    job = sweep.job()
    sweep.until(lambda: set(cluster.states()) >= {f"{job}_0", f"{job}_1"})
    sweep.process.send_signal(number)
    assert sweep.ended() == 128 + number
    assert f"scancel {job}" in sweep.output and "Traceback" not in sweep.output
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
def test_a_refusal_by_slurm_is_reported_in_its_words(
    cluster: Cluster, tmp_path: Path, argument: str, sentence: str
):
    sweep = cluster.start(tmp_path, "launcher=slurm", argument)
    assert sweep.ended() == 1
    assert sweep.output.count(sentence) == 1 and "hydra.launcher" in sweep.output
    assert "Traceback" not in sweep.output


def test_jobs_that_can_never_start_end_the_wait(cluster: Cluster, tmp_path: Path):
    sweep = cluster.start(tmp_path, "launcher=slurm", "seed=0,1", "launcher.threads=9999")
    assert sweep.ended() == 1
    job = sweep.job()
    assert f"{job}_0 was cancelled because it can never start (Slurm says PartitionConfig)" in sweep.output
    assert "change launcher.threads" in sweep.output and "Traceback" not in sweep.output
    assert not {state for name, state in cluster.states().items() if name.startswith(job)} - {"CANCELLED"}


def under_way(sweep: Sweep, rows: int = 20) -> None:
    """Wait until the run has as many rows."""
    sweep.until(lambda: any(path.read_text().count("\n") > rows for path in sweep.runs("metrics.jsonl")))


def signalled(sweep: Sweep) -> None:
    """The signal of Slurm before a time-out and, if configured so, before a preemption."""
    sweep.cluster.ask("scancel", "--signal=USR2", sweep.job())


def displaced(sweep: Sweep) -> None:
    """Preemption by a job that takes the node; Slurm sends TERM."""
    sweep.cluster.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")


def start_again(sweep: Sweep) -> None:
    """Once the job is back in the queue, start it without Slurm's delay of two minutes.

    The processes of its first start are waited for: Slurm takes a late report of their end for the second's.
    """
    sweep.until(lambda: can_start(sweep))
    start_now(sweep)


def can_start(sweep: Sweep) -> bool:
    return waits(sweep) and not sweep.cluster.is_served(sweep.job()) and sweep.cluster.is_idle()


def waits(sweep: Sweep) -> bool:
    return sweep.cluster.states()[sweep.job()] == "PENDING"


def start_now(sweep: Sweep) -> None:
    sweep.cluster.ask("scontrol", "update", f"JobId={sweep.job()}", "StartTime=now")


def log_of(sweep: Sweep) -> str:
    (log,) = sweep.folder.glob(f"outputs/test/.submitit/{sweep.job()}/*_log.err")
    return log.read_text()


def check_same(first: Sweep, second: Sweep) -> None:
    """Check that both computed the same run."""
    (a,), (b,) = first.runs("DONE"), second.runs("DONE")
    assert a.parent.name == b.parent.name
    assert numbers(a.parent) == numbers(b.parent)
    assert summary(a.parent) == summary(b.parent)


WHOLE = ["edits=60"]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The same run without interruption, outside of Slurm."""
    return cluster.start(tmp_path_factory.mktemp("whole"), *WHOLE)


@pytest.mark.parametrize("preempted", [signalled, displaced])
def test_a_preempted_run_continues(
    cluster: Cluster, whole: Sweep, tmp_path: Path, preempted: Callable[[Sweep], None]
):
    sweep = cluster.start(tmp_path, "launcher=slurm_preempt", *WHOLE)
    under_way(sweep, rows=5)
    preempted(sweep)
    start_again(sweep)
    assert sweep.ended() == 0, f"{sweep.output}\n{sweep.cluster.history(sweep.job())}\n{log_of(sweep)}"
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", sweep.job())
    assert "resuming from" in log_of(sweep)
    assert whole.ended() == 0, whole.output
    check_same(sweep, whole)


def test_a_run_without_time_left_fails_and_the_same_command_continues(cluster: Cluster, tmp_path: Path):
    sweep = cluster.start(tmp_path, "launcher=slurm", "edits=60", "hydra.launcher.timeout_min=10")
    under_way(sweep)
    signalled(sweep)
    assert sweep.ended() == 1
    assert "used up its time: the same command continues" in sweep.output and "Traceback" not in sweep.output
    again = cluster.start(tmp_path, "launcher=slurm", "edits=60", "hydra.launcher.timeout_min=10")
    assert again.ended() == 0, again.output
    assert "resuming from" in log_of(again)


@pytest.mark.long  # Slurm counts in minutes
def test_a_run_that_slurm_stops_for_its_time_continues(cluster: Cluster, whole: Sweep, tmp_path: Path):
    # two minutes: Slurm may send the signal earlier by up to one
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=20"]
    sweep = cluster.start(tmp_path, "launcher=slurm_preempt", *WHOLE, *limits)
    under_way(sweep, rows=3)
    sweep.task(None).suspend()  # until Slurm's signal, so that a quick machine does not end before its time
    start_again(sweep)
    while sweep.process.poll() is None:  # on a slow machine it takes several rounds
        if can_start(sweep):
            with suppress(subprocess.CalledProcessError):  # it has started meanwhile
                start_now(sweep)
        time.sleep(1)
    assert sweep.ended() == 0, sweep.output
    assert "this job is timed-out" in log_of(sweep)
    assert whole.ended() == 0, whole.output
    check_same(sweep, whole)


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a job of two processes needs two CPUs")
def test_several_processes_of_a_job_train_together(cluster: Cluster, tmp_path: Path):
    training = ["intervention=fft", "training=tiny", "training/pairs=world", "steps=3"]
    sweep = cluster.start(tmp_path, "launcher=slurm", *training, "hydra.launcher.tasks_per_node=2")
    assert sweep.ended() == 0, sweep.output
    assert sweep.marks() == ["DONE"]
    logs = [path.read_text() for path in tmp_path.glob(f"outputs/test/.submitit/{sweep.job()}/*_log.err")]
    assert len(logs) == 2
    assert not any("another process" in log for log in logs), "each is a part of the run, none is too many"
