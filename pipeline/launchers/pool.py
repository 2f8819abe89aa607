"""`launcher=pool`: several runs at a time on one machine, each in a process of its own.

Processes are forked from a server that has imported everything, so that a run starts at once and gives back
its memory when it ends. One that is killed fails alone.
"""

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Self

from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError
from pipeline.config.validation import ALLOWED
from pipeline.launchers.hardware import default_jobs, gpu_of, usable_cores, visible_gpus
from pipeline.launchers.pool_worker import LOG, Ended, Shared, Started, work
from pipeline.paths import ROOT
from pipeline.runs import messages
from pipeline.runs.messages import departure, duration
from pipeline.runs.signals import LEAVE, SAVE, JobFailed, JobLeft

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds after which a signal is noticed at the latest."""
PATIENCE = 2
"""How often jobs are asked to leave; who asks again gets them killed."""

WARM = "pipeline.launchers.preload"
"""What the server imports."""


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Pool(Launcher):
    """Runs jobs in processes on this machine, `jobs` at a time with `threads` threads each.

    Without `jobs` there are as many as GPUs, without GPUs half as many as cores; without `threads` the cores
    are divided.
    """

    def __init__(self, jobs: int | None, threads: int | None) -> None:
        self.jobs, self.threads = jobs, threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over what the jobs need."""
        self._shared = Shared(config=config, context=hydra_context, task=task_function)

    def warm_up(self) -> None:
        """Let the server import meanwhile, where it is known with how many threads."""
        if isinstance(self.threads, int) and self.threads > 0:
            _start_server(self.threads, _modules(self._shared.config))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """The result of every job; SystemExit with 128 + its number where a signal asked to leave.

        Raises:
            ConfigError: for a number of jobs or threads that cannot be.
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
        """What becomes ready when there is something to do."""
        return [self._process.sentinel, *([self._pipe] if self._open else [])]

    def listen(self) -> None:
        """Take what it sent."""
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
        """Whether it has left."""
        return not self._process.is_alive()

    def close(self) -> Ended:
        """What came of it."""
        self._process.join()
        self.listen()
        code = self._process.exitcode or 0
        self._process.close()
        self._pipe.close()
        left = code - 128 in LEAVE or -code in LEAVE
        return self.ended or Ended(error=f"the run's process {departure(code)}", left=left)

    def send(self, number: int) -> None:
        """Ask it to save or to leave."""
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
        self._begun: float | None = None

    def run(self, jobs: int) -> list[JobReturn]:
        """Compute all of them, `jobs` at a time."""
        waiting, free = deque(range(len(self._overrides))), deque(range(jobs))
        with Asked() as asked:
            try:
                while self._running or (waiting and asked.number is None):
                    while waiting and free and asked.number is None:
                        self._start(waiting.popleft(), free.popleft())
                    wait([handle for one in self._running for handle in one.handles], TICK)
                    asked.pass_on([one.send for one in self._running])
                    free += self._collect(asked)
            finally:
                for one in self._running:
                    one.send(signal.SIGKILL)
        if asked.number is not None:
            log.warning("%d runs were not finished; the same command goes on", self._unfinished())
            raise SystemExit(128 + asked.number)
        return [self._results[index] for index in range(len(self._overrides))]

    def _start(self, index: int, slot: int) -> None:
        environment = {"CUDA_VISIBLE_DEVICES": gpu} if (gpu := gpu_of(slot, self._gpus)) else {}
        arguments = (self._shared, list(self._overrides[index]), self._first + index, environment)
        self._running.append(one := _Process(index=index, slot=slot, arguments=arguments))
        self._begun = self._begun or one.begun

    def _collect(self, asked: "Asked") -> list[int]:
        """Take what has come; the slots of jobs that ended."""
        free: list[int] = []
        for one in list(self._running):
            known = one.folder
            one.listen()
            if known is None and one.folder is not None:
                self._tell(one, f"starts ({one.folder / LOG})")
            if one.is_over():
                self._running.remove(one)
                free.append(one.slot)
                self._finish(one, asked)
        return free

    def _finish(self, one: _Process, asked: "Asked") -> None:
        ended = one.close()
        result = JobReturn(overrides=self._overrides[one.index])
        result.status = JobStatus.FAILED if ended.error else JobStatus.COMPLETED
        failure = JobLeft if ended.left else JobFailed
        result.return_value = failure(ended.error) if ended.error else ended.value
        took = f"after {duration(time.monotonic() - one.begun)}"
        if one.ended is None and asked.number is not None:
            self._tell(one, f"interrupted {took}")
            return
        self._results[one.index] = result
        self._tell(one, f"failed {took}: {ended.error}" if ended.error else f"done {took}; {self._outlook()}")

    def _unfinished(self) -> int:
        return len(self._overrides) - len(self._results)

    def _outlook(self) -> str:
        done, left = len(self._results), self._unfinished()
        seconds = (time.monotonic() - (self._begun or 0)) / done * left
        return f"{done} of {len(self._overrides)}" + (f", about {duration(seconds)} left" if left else "")

    def _tell(self, one: _Process, what: str) -> None:
        log.info("[%d] %s: %s", self._first + one.index + 1, self._names[one.index], what)


class Asked:
    """Signals that ask to save or to leave, as a context: noted, and passed on to the jobs."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first that came and asks to leave."""
        self._save = False
        self._times = self._passed = 0

    def __enter__(self) -> Self:
        """Receive them; outside of a process's main thread nothing is received."""
        main = threading.current_thread() is threading.main_thread()
        self._before = (
            {number: signal.signal(number, self._receive) for number in (SAVE, *LEAVE)} if main else {}
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_on(self, jobs: Sequence[Callable[[int], None]]) -> None:
        """Ask the jobs to leave as often as this process was asked; then end them. Or to save."""
        if self._save:
            self._save = False
            log.info("%s: the runs save and go on", SAVE.name)
            for send in jobs:
                send(SAVE)
        if self.number is None or self._passed == self._times:
            return
        self._passed = self._times
        insistent = self._times > PATIENCE
        log.warning("%s: waiting for %d runs to save and leave", signal.Signals(self.number).name, len(jobs))
        for send in jobs:
            send(signal.SIGKILL if insistent else self.number)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == SAVE:
            self._save = True
            return
        self.number = self.number or number
        self._times += 1


def _modules(node: object) -> set[str]:
    """Modules of the classes that a configuration names."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, list):
        return set().union(*map(_modules, node))
    if not isinstance(node, dict):
        return set()
    named = node.get("_target_")
    own = {named.rpartition(".")[0]} if isinstance(named, str) and named.startswith(ALLOWED) else set()
    return own.union(*map(_modules, node.values()))


def _start_server(threads: int, modules: Collection[str]) -> None:
    """Start what processes are forked from, unless it is there; its libraries read their settings now."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([*sorted(modules), WARM])
    settings = {name: str(threads) for name in _THREADS}
    # Python 3.11 starts the server without the path that modules were found on here
    given = os.environ.get("PYTHONPATH")
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([given] if given else [])])
    # otherwise asking whether there is a GPU initialises CUDA, which does not survive a fork
    settings["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    with env_override(settings):
        multiprocessing.forkserver.ensure_running()
