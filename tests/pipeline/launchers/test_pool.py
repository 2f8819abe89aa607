"""A pool of processes: a job that fails stops no other, and no process or handle remains."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hydra.core.utils import JobReturn, JobStatus

from editors.errors import ConfigError
from pipeline.__main__ import main
from pipeline.config.hydra_internals import result_of
from pipeline.launchers.hardware import default_jobs, gpu_of, visible_gpus
from pipeline.launchers.pool import Pool
from pipeline.runs.messages import duration, exit_message
from pipeline.runs.signals import JobLeft
from tests.pipeline.forked import fork_server
from tests.pipeline.pooled import task
from tests.pipeline.sweeping import context_of
from tests.pipeline.test_cli import run


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes from the server of all tests, whose imports take seconds."""
    fork_server()
    monkeypatch.chdir(tmp_path)
    yield
    assert not multiprocessing.active_children()


def launched(*seeds: int, jobs: int = 2) -> list[JobReturn]:
    launcher = Pool(jobs=jobs, threads=1)
    context, config = context_of(["name=pooled", "tracker=none"])
    launcher.setup(hydra_context=context, task_function=task, config=config)
    return launcher.launch([["name=pooled", "tracker=none", f"seed={seed}"] for seed in seeds], 0)


def test_a_killed_job_fails_alone_and_its_signal_is_named(prepared: None):
    fine, killed, also = launched(1, 10, 2)
    assert (fine.return_value, also.return_value) == (1.0, 2.0)
    assert killed.status == JobStatus.FAILED
    assert str(result_of(killed)) == (
        "the run's process was killed by SIGKILL, perhaps because memory ran out"
    )


def test_every_failure_is_one_line(prepared: None):
    messages = [str(result_of(result)) for result in launched(11, 12, 13)]
    assert messages == [
        "the run's process exited with status 3 and without a result",
        "the facts are of no use",
        "ValueError: nobody foresaw this",
    ]


def test_a_job_that_was_asked_to_leave_has_its_own_error(prepared: None):
    left, failed = launched(16, 12)
    assert isinstance(result_of(left), JobLeft) and not isinstance(result_of(failed), JobLeft)
    assert "was asked to leave by SIGTERM; the same command continues" in str(result_of(left))


def test_no_handle_stays_open_and_each_folder_holds_a_log(prepared: None, tmp_path: Path):
    launched(1)
    before = psutil.Process().num_fds(), threading.active_count()
    launched(2, 12)
    assert (psutil.Process().num_fds(), threading.active_count()) == before
    logs = [path.read_text() for path in (tmp_path / "outputs" / "pooled").glob("*-*/job.log")]
    assert len(logs) == 3


def test_each_job_sees_the_gpu_of_its_place(prepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    launched(0, 1, 2, 3)
    logs = {path.read_text().strip() for path in (tmp_path / "outputs" / "pooled").glob("*-*/job.log")}
    assert logs == {"4", "7"}


def test_a_signal_is_passed_on_and_no_further_job_starts(
    prepared: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    before = signal.getsignal(signal.SIGINT)
    _send_when_it_lingers(tmp_path, signal.SIGINT)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as left:
        launched(14, 1, jobs=1)
    assert left.value.code == 128 + signal.SIGINT
    assert (tmp_path / "saved").exists()
    assert "2 runs were not finished" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before


def test_a_request_to_save_reaches_the_runs_which_continue(prepared: None, tmp_path: Path):
    before = signal.getsignal(signal.SIGUSR1)
    _send_when_it_lingers(tmp_path, signal.SIGUSR1)
    (result,) = launched(15, jobs=1)
    assert result.status == JobStatus.COMPLETED and (tmp_path / "saved").exists()
    assert signal.getsignal(signal.SIGUSR1) is before


def _send_when_it_lingers(folder: Path, number: int) -> None:
    def send() -> None:
        while not (folder / "lingers").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def test_a_command_survives_a_request_to_save_at_any_moment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["pipeline", "--version"])
    for name in ("HYDRA_FULL_ERROR", "TOKENIZERS_PARALLELISM", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")  # so that it is as before in the end
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit):
            main()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
def test_from_the_command_line(overrides: list[str], tmp_path: Path):
    command = [*overrides, "launcher=pool", "launcher.jobs=2", "launcher.threads=1", "stage=[norms]"]
    done = run(tmp_path, *command, "edits=2,3,50")
    assert done.returncode == 1
    assert "1 of 3 runs failed" in done.stderr and "Traceback" not in done.stderr
    finished = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("outputs/test/*-*/DONE")}
    assert set(done.stdout.splitlines()) == finished and len(finished) == 2
    again = run(tmp_path, *command, "edits=2,3")
    assert again.returncode == 0 and "0 to compute, 2 done already" in again.stderr


def test_a_number_of_jobs_below_one_is_a_sentence():
    with pytest.raises(ConfigError, match=r"launcher\.jobs=0"):
        Pool(jobs=0, threads=None).launch([["seed=1"]], 0)


def test_gpus_are_assigned_in_turn():
    assert [gpu_of(slot, ["2", "5"]) for slot in range(4)] == ["2", "5", "2", "5"]
    assert gpu_of(0, []) is None


@pytest.mark.parametrize(
    ("devices", "gpus"),
    [("0,2", ["0", "2"]), ("", []), ("-1", []), ("1,-1,2", ["1"]), ("GPU-ab", ["GPU-ab"])],
)
def test_visible_devices_are_read_as_cuda_reads_them(devices: str, gpus: list[str]):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": devices}) == gpus


@pytest.mark.parametrize(("gpus", "cores", "jobs"), [(4, 96, 4), (0, 8, 4), (0, 1, 1)])
def test_there_is_a_job_for_each_gpu_or_for_two_cores(gpus: int, cores: int, jobs: int):
    assert default_jobs(gpus, cores) == jobs


def test_messages_for_ends_and_durations():
    assert exit_message(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert exit_message(143) == "was asked to leave by SIGTERM; the same command continues"
    assert [duration(seconds) for seconds in (4.4, 130, 9000)] == ["4 s", "2 min", "2.5 h"]
