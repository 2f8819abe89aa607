"""The built-in models and tasks as parts of a configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.stages.downstream.tasks.items import ItemTasks
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.phases import Report, silent
from editors.updates import Site
from pipeline.data.world.facts import World
from pipeline.data.world.shipped_models import shipped_folder


@dataclass(frozen=True, kw_only=True)
class BuiltInCheckpoint(Checkpoint):
    """A shipped tiny model that knows the built-in world."""

    path: str = ""
    """Always empty: the folder follows from the model's name."""

    def load(self, report: Report = silent, changed: Sequence[Site] = ()) -> Model:
        """The model; raises ConfigError if no built-in model has the name."""
        checkpoint = replace(self, path=str(shipped_folder(self.name)))
        return super(BuiltInCheckpoint, checkpoint).load(report, changed)


def world_tasks(*, seed: int = 0, limit: int | None = None) -> ItemTasks:
    """The built-in world's downstream tasks; the built-in models know the world of seed 0."""
    return ItemTasks(items=World(seed=seed).tasks, limit=limit)
