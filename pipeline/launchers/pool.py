"""`launcher=pool`: several runs at a time on one machine, each in a process of its own.

Processes are forked from a server that has imported everything, so that a run starts at once and frees
its memory when it ends. If a process is killed, only its run fails.
"""

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from analysis.interrupts import received
from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.config.allowed_classes import own_targets
from pipeline.launchers.hardware import default_jobs, gpu_of, usable_cores, visible_gpus
from pipeline.launchers.pool_view import PoolView
from pipeline.launchers.pool_worker import LOG, Ended, Shared, Started, work
from pipeline.launchers.signal_relay import SignalRelay
from pipeline.paths import ROOT
from pipeline.progress.run_states import RunState, run_state
from pipeline.progress.terminal import terminal
from pipeline.runs import messages
from pipeline.runs.messages import duration, exit_message
from pipeline.runs.signals import LEAVE, JobFailed, JobLeft

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds until a signal is noticed, at most."""
PRELOAD = "pipeline.launchers.preload"
"""The module that the server imports."""


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Pool(Launcher):
    """Runs jobs in processes on this machine, `jobs` at a time with `threads` threads each.

    If `jobs` is null there are as many as GPUs, without GPUs half as many as cores; if `threads` is null the
    cores are divided.
    """

    def __init__(self, jobs: int | None, threads: int | None) -> None:
        self.jobs, self.threads = jobs, threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the context that the jobs need."""
        self._shared = Shared(config=config, context=hydra_context, task=task_function)

    def warm_up(self) -> None:
        """Let the server import already if the number of threads is known."""
        if isinstance(self.threads, int) and self.threads > 0:
            _start_server(self.threads, _modules(self._shared.config))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """The result of every job; SystemExit with 128 + its number if a signal asked to leave.

        Raises:
            ConfigError: for a number of jobs or threads below 1.
        """
        for name, value in (("jobs", self.jobs), ("threads", self.threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"launcher.{name}={value} has to be a positive whole number, or null")
        if not job_overrides:
            return []
        gpus, cores = visible_gpus(), usable_cores()
        jobs = min(self.jobs or default_jobs(len(gpus), cores), len(job_overrides))
        threads = self.threads or max(1, cores // jobs)
        log.info("%d at a time, %d threads each%s", jobs, threads, f", on {len(gpus)} GPUs" if gpus else "")
        _start_server(threads, _modules(self._shared.config))
        work = _Work(shared=self._shared.pickled(), overrides=job_overrides, first=initial_job_idx, gpus=gpus)
        return work.run(jobs)


class _Process:
    """A job in its process."""

    def __init__(self, *, index: int, slot: int, arguments: Sequence[object]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.index, self.slot = index, slot
        self.folder: Path | None = None
        self.ended: Ended | None = None
        self._pipe, theirs = context.Pipe(duplex=False)
        self._open = True
        with theirs:
            self._process = context.Process(target=work, args=(theirs, *arguments), name=f"job {index}")
            self._process.start()  # the first waits until the server has imported everything
        self.begun = time.monotonic()

    @property
    def handles(self) -> list[Connection | int]:
        """Handles that become ready when the process has ended or sent a message."""
        return [self._process.sentinel, *([self._pipe] if self._open else [])]

    def listen(self) -> None:
        """Receive its messages."""
        try:
            while self._open and self._pipe.poll():
                message = self._pipe.recv()
                if isinstance(message, Started):
                    self.folder = message.folder
                else:
                    self.ended = message
        except (EOFError, OSError):
            self._open = False

    def is_over(self) -> bool:
        """Whether it has ended."""
        return not self._process.is_alive()

    def close(self) -> Ended:
        """Wait for its end; returns the result."""
        self._process.join()
        self.listen()
        code = self._process.exitcode or 0
        self._process.close()
        self._pipe.close()
        left = code - 128 in LEAVE or -code in LEAVE
        return self.ended or Ended(error=f"the run's process {exit_message(code)}", left=left)

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs; one that asks it to leave before its run begins kills it.

        Until then it may not receive signals yet, and has nothing to save.
        """
        self.listen()
        if self.folder is None and number in LEAVE:
            number = signal.SIGKILL
        if self._process.pid is not None and self._process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


class _Work:
    """The jobs of one launch."""

    def __init__(
        self, *, shared: bytes, overrides: Sequence[Sequence[str]], first: int, gpus: Sequence[str]
    ) -> None:
        self._shared, self._overrides, self._first, self._gpus = shared, overrides, first, gpus
        self._names = messages.without_shared([messages.publishable(job) for job in overrides])
        self._running: list[_Process] = []
        self._results: dict[int, JobReturn] = {}
        self._folders: dict[int, Path] = {}
        self._ended: dict[int, RunState] = {}
        self._begun: float | None = None

    def run(self, jobs: int) -> list[JobReturn]:
        """Compute all of them, `jobs` at a time."""
        waiting, free = deque(range(len(self._overrides))), deque(range(jobs))
        with SignalRelay() as relay, PoolView("pool", terminal()) as view:
            try:
                while self._running or (waiting and relay.number is None):
                    while waiting and free and relay.number is None:
                        self._start(waiting.popleft(), free.popleft())
                    wait([handle for process in self._running for handle in process.handles], TICK)
                    relay.pass_on([process.send for process in self._running])
                    free += self._collect(relay, view)
                    over = not self._running and (not waiting or relay.number is not None)
                    view.show(self._states, last=over)
            finally:
                for process in self._running:
                    process.send(signal.SIGKILL)
        if relay.number is not None:
            log.warning("%d runs were not finished; the same command continues", self._unfinished())
            raise SystemExit(128 + relay.number)
        return [self._results[index] for index in range(len(self._overrides))]

    def _start(self, index: int, slot: int) -> None:
        environment = {"CUDA_VISIBLE_DEVICES": gpu} if (gpu := gpu_of(slot, self._gpus)) else {}
        arguments = (self._shared, list(self._overrides[index]), self._first + index, environment)
        self._running.append(process := _Process(index=index, slot=slot, arguments=arguments))
        self._begun = self._begun or process.begun

    def _states(self) -> list[RunState]:
        """The state of every job, in their order; those that have begun are read from their folders."""
        return [self._state(index) for index in range(len(self._overrides))]

    def _state(self, index: int) -> RunState:
        overrides = messages.publishable(self._overrides[index])
        if index in self._ended:
            return self._ended[index]
        if (folder := self._folders.get(index)) is not None:
            return run_state(RunFolder(folder), overrides)
        starts = any(process.index == index for process in self._running)
        return RunState(
            run="", overrides=overrides, state="waiting", message="its process starts" if starts else ""
        )

    def _collect(self, relay: SignalRelay, view: PoolView) -> list[int]:
        """Receive all messages; returns the slots of jobs that ended."""
        free: list[int] = []
        for process in list(self._running):
            known = process.folder
            process.listen()
            if known is None and process.folder is not None:
                self._folders[process.index] = process.folder
                self._report(process, f"starts ({process.folder / LOG})")
            if process.is_over():
                self._running.remove(process)
                free.append(process.slot)
                self._finish(process, relay, view)
        return free

    def _finish(self, process: _Process, relay: SignalRelay, view: PoolView) -> None:
        ended = process.close()
        result = JobReturn(overrides=self._overrides[process.index])
        result.status = JobStatus.FAILED if ended.error else JobStatus.COMPLETED
        failure = JobLeft if ended.left else JobFailed
        result.return_value = failure(ended.error) if ended.error else ended.value
        seconds = time.monotonic() - process.begun
        took = f"after {duration(seconds)}"
        if process.ended is None and relay.number is not None:
            self._report(process, f"interrupted {took}")
            return
        self._results[process.index] = result
        self._ended[process.index] = RunState(
            run=process.folder.name if process.folder else "",
            overrides=messages.publishable(self._overrides[process.index]),
            state=("interrupted" if ended.left else "failed") if ended.error else "done",
            message=ended.error or "",
            share=0.0 if ended.error else 1.0,
            seconds=seconds,
        )
        if view.owns_output and process.folder is not None and not ended.error:
            print(process.folder, flush=True)  # noqa: T201 - which the job itself prints elsewhere
        self._report(
            process, f"failed {took}: {ended.error}" if ended.error else f"done {took}; {self._outlook()}"
        )

    def _unfinished(self) -> int:
        return len(self._overrides) - len(self._results)

    def _outlook(self) -> str:
        done, left = len(self._results), self._unfinished()
        seconds = (time.monotonic() - (self._begun or 0)) / done * left
        return f"{done} of {len(self._overrides)}" + (f", about {duration(seconds)} left" if left else "")

    def _report(self, process: _Process, event: str) -> None:
        log.info("[%d] %s: %s", self._first + process.index + 1, self._names[process.index], event)


def _modules(node: object) -> set[str]:
    """Modules of this project's classes that a configuration names; plug-ins are imported by the jobs."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, list):
        return set().union(*map(_modules, node))
    if not isinstance(node, dict):
        return set()
    named = node.get("_target_")
    own = {named.rpartition(".")[0]} if isinstance(named, str) and named in own_targets() else set()
    return own.union(*map(_modules, node.values()))


def _start_server(threads: int, modules: Collection[str]) -> None:
    """Start the server that processes are forked from, if needed; its libraries read their settings now."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([*sorted(modules), PRELOAD])
    settings = {name: str(threads) for name in _THREADS}
    # Python 3.11 starts the server without the path of modules of this process
    path = os.environ.get("PYTHONPATH")
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])
    # otherwise asking whether there is a GPU initialises CUDA, which does not survive a fork
    settings["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # the server inherits what is ignored: Ctrl-C reaches it as well, and would interrupt its imports
    with env_override(settings), received([signal.SIGINT], signal.SIG_IGN):
        multiprocessing.forkserver.ensure_running()
