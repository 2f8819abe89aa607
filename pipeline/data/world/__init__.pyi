from .borrowed import BorrowedWorld as BorrowedWorld
from .builtin import BuiltInCheckpoint as BuiltInCheckpoint, world_tasks as world_tasks
from .datasets import WorldFacts as WorldFacts, WorldPairs as WorldPairs, WorldText as WorldText
from .facts import World as World
from .recipe import build as build
from .shipped_models import recipe_of as recipe_of
