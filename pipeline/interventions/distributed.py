"""Several processes that train or edit one model together, started by torchrun or `accelerate launch`.

The first one measures and records; the others only do their share. Each composes the same configuration.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from analysis.stages.base import Stage
from editors.errors import ConfigError
from editors.models.model import Model
from editors.phases import Phase
from pipeline.interventions.base import Change, Intervention, Part
from pipeline.runs.checkpoint_store import FOLDER, Saved
from pipeline.runs.signals import Requests

T = TypeVar("T")


def count() -> int:
    """The number of processes that run together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that measures and records."""
    return int(os.environ.get("RANK", "0")) == 0


def join(intervention: Intervention, *, cpu: bool) -> None:
    """Join the other processes; does nothing if there are none.

    Raises:
        ConfigError: for an intervention that only one process can do.
    """
    if count() == 1:
        return
    if not intervention.shared:
        raise ConfigError(
            f"intervention={intervention.name} runs in one process, but {count()} were started: "
            "leave out torchrun or accelerate launch"
        )
    if not dist.is_initialized():
        from accelerate import PartialState  # here: it initialises the processes and takes a second

        # generous: while the first process measures, the others wait
        PartialState(cpu=cpu, timeout=timedelta(hours=12))


@dataclass(frozen=True)
class Start:
    """Sent by the first process before it computes a run."""

    resumed: Saved | None


def agreed(value: T) -> T:
    """The value of the first process, in every process."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def meet() -> None:
    """Wait until every process has called this."""
    if count() > 1:
        dist.barrier()


class FollowerObserver:
    """The `StepObserver` of a process that does not measure; it knows when the first one does."""

    def __init__(
        self, *, stages: Sequence[Stage], folder: Path, resumed: Saved | None, requests: Requests
    ) -> None:
        self.stages, self.folder, self.resumed = stages, folder, resumed
        self.requests = requests  # received but not acted on: those of the first process count
        self.checkpoints = folder / FOLDER / "0"
        self._count = 0

    def due(self, part: Part, count: int) -> bool:
        """The same as `Observer.due` in the first process."""
        return any(stage.cadence.due(self._count, count, part.total) for stage in self.stages)

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        """Only count; the first process decides whether to continue."""
        self._count += change.steps if change else 0
        return True

    def report(self, phase: Phase) -> None:
        """Nothing: the first process shows it."""

    def save(self, checkpoint: Path, pieces: Sequence[Path] = ()) -> None:
        """Nothing: the first process completes the checkpoint."""
