"""Sweeps on Slurm: the submitit launcher, with a snapshot of the code and a report of jobs that die."""

import copy
import io
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import DictConfig, OmegaConf
from submitit import AutoExecutor, JobEnvironment
from submitit.core.core import Job
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
from submitit.helpers import TorchDistributedEnvironment

from analysis.interrupts import received
from editors.errors import ConfigError, NormscopeError
from pipeline.config.hydra_internals import result_of, with_search_path
from pipeline.config.resolvers import register_resolvers
from pipeline.launchers.code_snapshot import ROOT, snapshot
from pipeline.launchers.slurm_queue import STUCK, Queue, setting_of

log = logging.getLogger(__name__)

LOG_LINES = 5
"""Last lines of a dead job's log in the message about it."""


class JobFailed(NormscopeError):
    """A Slurm job ended without having computed its run."""


class SlurmSweep(SlurmLauncher):
    """Runs of a sweep as one job array.

    Jobs run in the folder that they were submitted from, so that relative paths stay valid, with a copy of
    the code and the configuration files at that time.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Copy the code; the jobs run and compose from there.

        Raises:
            ConfigError: if there is no Slurm.
        """
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ConfigError(
                "launcher=slurm needs Slurm, but there is no sbatch and srun on this machine: "
                "log in to the cluster, or leave the launcher out"
            )
        code = snapshot(Path(str(config.hydra.sweep.dir)) / ".code")
        # the user's lines first: `module load` may set PYTHONPATH too
        self.params["setup"] = [
            *(self.params.get("setup") or []),
            "export PYTHONSAFEPATH=1",  # else `python -m` looks for packages in the current folder first
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        ]
        self.command = sys.argv
        super().setup(
            hydra_context=_composing_from(code, hydra_context), task_function=task_function, config=config
        )

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """One run, inside its job."""
        register_resolvers()
        sys.argv = self.command  # the command that a run records
        signal.signal(signal.SIGTERM, _terminated)
        if JobEnvironment().num_tasks > 1:  # of one run, which train together
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        done = super().__call__(*args, **kwargs)
        if done.status == JobStatus.FAILED and not isinstance(result_of(done), NormscopeError):
            log.error("the run failed", exc_info=result_of(done))
        return done

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Queue the runs, wait for all of them, and return the result of each.

        A job that failed or died has status FAILED and an error as value; the others are unchanged.

        Raises:
            ConfigError: if Slurm refuses the jobs.
        """
        jobs = self._submit(job_overrides, initial_job_idx)
        array = jobs[0].job_id.split("_")[0]
        log.info("runs queued as Slurm job %s: %d", array, len(jobs))
        queue = Queue()
        for job in jobs:
            queue.register_job(job.job_id)
            for process in (job, *(job.task(i) for i in range(job.num_tasks))):
                process.watcher = queue
        with _explained(array):
            return [
                _outcome(job, queue, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)
            ]

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job[JobReturn]]:
        tasks = [
            (list(overrides), "hydra.sweep.dir", first + i, f"job_id_for_{first + i}", Singleton.get_state())
            for i, overrides in enumerate(job_overrides)
        ]
        for number, overrides in enumerate(job_overrides, first):
            log.info("#%d %s", number, " ".join(filter_overrides(overrides)))
        executor = self._executor()
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                return executor.map_array(self, *zip(*tasks, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            message = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines())
            raise ConfigError(
                f"Slurm refuses the jobs ({message}): change hydra.launcher.partition, gpus_per_node, "
                "or what else it names"
            ) from error

    def _executor(self) -> AutoExecutor:
        shared = set(OmegaConf.structured(BaseQueueConf))
        params: dict[str, Any] = {
            name if name in shared else f"slurm_{name}": value for name, value in self.params.items()
        }
        executor = AutoExecutor(
            folder=params.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=params.pop("slurm_max_num_timeout"),
        )
        try:
            executor.update_parameters(**params)
        except (AssertionError, NameError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
        return executor


def _terminated(number: int, frame: FrameType | None) -> None:
    """Inside a job: Slurm sends TERM before it takes the node away, and the job is then queued again by
    submitit's handler of USR2; and when the job is cancelled, which it does not survive anyway.
    """
    command = ["scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"]]
    description = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    handler = signal.getsignal(signal.SIGUSR2)
    if re.search(r"\bPreemptTime=\d", description) and callable(handler):
        handler(signal.SIGUSR2, frame)


def _composing_from(code: Path, context: HydraContext) -> HydraContext:
    """The same context, with configuration files of this project read in the copy."""
    path = copy.deepcopy(context.config_loader.get_search_path())
    for place in path.get_path():
        folder = Path((place.path or "").removeprefix("file://"))
        if folder.is_relative_to(ROOT):
            place.path = str(code / folder.relative_to(ROOT))
    return with_search_path(context, path)


def _outcome(job: Job[JobReturn], queue: Queue, overrides: Sequence[str]) -> JobReturn:
    """The result of the job; without a result, a failure with its state and the end of its log."""
    job.wait()
    reason = queue.reason(job.job_id)
    if job.state == STUCK:  # it has no log
        subprocess.run(["scancel", job.job_id], check=False, timeout=60)
        return _failed(
            overrides,
            f"Slurm job {job.job_id} was cancelled because it can never start (Slurm says {reason}): "
            f"change {setting_of(reason)}",
        )
    try:
        done = job.results()[0]
        if done.status != JobStatus.FAILED or isinstance(result_of(done), NormscopeError):
            return done
        event, lines = _failure(result_of(done)), 0
    except FailedJobError:  # its text is the log's
        event, lines = "failed before its run began", LOG_LINES
    except UncompletedJobError:
        event, lines = f"died (Slurm says {', '.join(filter(None, (job.state, reason)))})", LOG_LINES
    except Exception as error:  # the others are waited for in any case
        event, lines = _failure(error), 0
    return _failed(overrides, f"Slurm job {job.job_id} {event}; its log is {_log(job, lines)}")


def _failed(overrides: Sequence[str], message: str) -> JobReturn:
    failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    failed.return_value = JobFailed(message)
    return failed


def _failure(error: Exception) -> str:
    if "timed-out" in str(error):  # submitit's word
        return (
            "used up its time: the same command continues from the last checkpoint; allow more with "
            "hydra.launcher.timeout_min, or let Slurm queue it again with launcher=slurm_preempt"
        )
    message = "".join(str(error).strip().splitlines()[:1])
    return f"failed with {type(error).__name__}: {message}"


def _log(job: Job[JobReturn], count: int) -> str:
    """The path of the log of the job, and its last `count` lines."""
    path = job.paths.stderr if job.paths.stderr.is_file() else job.paths.stdout
    text = path.read_text(encoding="utf-8", errors="replace") if count and path.is_file() else ""
    lines = text.splitlines()[-count:]
    return f"{path}" + (f"; it ends with: {' / '.join(lines)}" if lines else "")


@contextmanager
def _explained(array: str) -> Iterator[None]:
    """While the sweep waits, Ctrl-C and TERM end this process, not the jobs; a message says so."""

    def leave(number: int, frame: FrameType | None) -> None:
        log.warning(
            "the jobs continue; scancel %s ends them. The same command, given again, uses the runs that "
            "they have computed and skips those that they are computing.",
            array,
        )
        raise SystemExit(128 + number)

    with received((signal.SIGINT, signal.SIGTERM), leave):
        yield
