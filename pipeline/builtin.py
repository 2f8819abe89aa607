"""The built-in models and tasks as parts of a configuration."""

from dataclasses import dataclass, replace
from pathlib import Path

from analysis.tasks.items import ItemTasks
from editors.model.loading import Checkpoint
from editors.model.model import Model
from pipeline.world.facts import World
from pipeline.world.shelf import ensure


@dataclass(frozen=True, kw_only=True)
class BuiltInCheckpoint(Checkpoint):
    """A tiny model that knows the built-in world: shipped, or built when it is first asked for."""

    path: str = ""
    """Stays empty: the model's name tells where it is."""
    cache: str = "outputs/cache/models"
    """Where models that are not shipped are kept."""

    def load(self) -> Model:
        """The model; building it takes minutes, once, with a progress bar."""
        found = replace(self, path=str(ensure(self.name, Path(self.cache))))
        return super(BuiltInCheckpoint, found).load()


def world_tasks(*, seed: int = 0, limit: int | None = None) -> ItemTasks:
    """The built-in world's downstream tasks; the built-in models know the world of seed 0."""
    return ItemTasks(items=World(seed=seed).tasks, limit=limit)
