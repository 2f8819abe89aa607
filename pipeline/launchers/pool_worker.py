"""A job of a pool, in its process: composes its configuration, reports its folder, and is computed there."""

import faulthandler
import logging
import os
import pickle
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from analysis.interrupts import ending_in_order
from analysis.selection import OUTPUTS
from editors.errors import NormscopeError
from pipeline.config.hydra_internals import restore_singletons, result_of, singletons
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.runs.layout import folder_of
from pipeline.runs.messages import error_line
from pipeline.runs.objectives import Value
from pipeline.runs.signals import SAVE

log = logging.getLogger(__name__)

LOG = "job.log"
"""Messages of a job of a pool, in its run folder."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Configuration and task that all jobs of a sweep share."""

    config: DictConfig
    """Composed without the overrides that the sweep varies."""
    context: HydraContext
    task: TaskFunction

    def pickled(self) -> bytes:
        """Bytes for other processes, with Hydra's state except for plugins and resolvers, which they have."""
        return pickle.dumps((self, singletons()))

    @staticmethod
    def unpickled(content: bytes) -> "Shared":
        """The object in a process that `pipeline.launchers.preload` prepared."""
        shared, state = pickle.loads(content)
        restore_singletons(state)
        setup_globals()
        register_resolvers()
        return shared


@dataclass(frozen=True, kw_only=True)
class Started:
    """Message of a job that has composed its configuration."""

    folder: Path
    """The folder of its run."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Message of a job that is over."""

    value: Value = None
    error: str | None = None
    """Why there is no value, in one line."""
    left: bool = False
    """Whether it has no value because it was asked to leave."""


def work(
    pipe: Connection, shared: bytes, overrides: Sequence[str], number: int, environment: Mapping[str, str]
) -> None:
    """Compute a job and send a `Started` and an `Ended`."""
    os.setpgrp()  # Ctrl-C reaches only the sweep, which passes it on
    # even if they are ignored, as by the server and in the background of a shell
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(SAVE, signal.SIG_IGN)  # until the run exists, which then receives it
    threading.Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    os.environ.update(environment)
    with ending_in_order():
        try:
            ended = Ended(value=_computed(pipe, Shared.unpickled(shared), overrides, number))
        except Exception as error:
            if not isinstance(error, NormscopeError):
                log.exception("this is a bug")
            ended = Ended(error=error_line(error))
        pipe.send(ended)


def _computed(pipe: Connection, shared: Shared, overrides: Sequence[str], number: int) -> Value:
    loader = shared.context.config_loader
    config = loader.load_sweep_config(shared.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    folder = folder_of(OUTPUTS, resolved(config))
    _write_to(folder / LOG)
    pipe.send(Started(folder=folder))
    result = run_job(
        hydra_context=shared.context,
        task_function=shared.task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if result.status == JobStatus.FAILED:
        raise result_of(result)
    return result.return_value


def _write_to(path: Path) -> None:
    """Send the standard error of this process, native code included, to a file.

    So is its standard output if that is a terminal, on which the pool shows its table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if os.isatty(1):
            os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()


def _leave_with_parent() -> None:
    """Ask this process to leave when its sweep has ended, for whatever reason."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
