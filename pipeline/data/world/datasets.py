"""Facts, texts and training pairs of the built-in world."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.data.corpora import text_digest
from pipeline.data.factset import FactSet
from pipeline.data.pairs import Pair
from pipeline.data.world.names import relations_of, world_label


@dataclass(frozen=True, kw_only=True)
class WorldText:
    """The text that the built-in models are trained on."""

    seed: int = 0
    """Seed of the world; the documents are in the order of its first training pass."""
    relations: Sequence[str] | None = None
    """Names of the relations in the text; null is all."""

    def __post_init__(self) -> None:
        relations_of(self.relations)

    def identity(self) -> str:
        """Hash of the documents."""
        return f"world-{text_digest(self)}"

    @property
    def label(self) -> str:
        """The world's seed, and its relations if these are not all."""
        return world_label(self.seed, self.relations)

    def __iter__(self) -> Iterator[str]:
        """One pass over the world's documents."""
        from pipeline.data.world.facts import World  # imported here: only runs on the built-in world need it

        return World(seed=self.seed, relations=self.relations).corpus(self.seed)


@dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """The facts of the built-in world, which the built-in models know."""

    name: str = "world"
    seed: int = 0
    """Seed of the world; the built-in models know the world of seed 0."""
    relations: Sequence[str] | None = None
    """Names of the relations: some of city, job, instrument and language; null is all."""

    def __post_init__(self) -> None:
        relations_of(self.relations)

    def load(self) -> FactSet:
        """The facts of the selected relations."""
        from pipeline.data.world.facts import World  # imported here: only runs on the built-in world need it

        return FactSet(name=self.name, facts=World(seed=self.seed, relations=self.relations).facts)


@dataclass(frozen=True, kw_only=True)
class WorldPairs:
    """The facts of a built-in world, as prompts with objects.

    A world with another seed than that of the models has other people: new knowledge in known words.
    """

    seed: int = 1
    relations: Sequence[str] | None = None
    """Names of the relations; null is all."""

    def __post_init__(self) -> None:
        relations_of(self.relations)

    @property
    def label(self) -> str:
        """The world's seed, and its relations if these are not all."""
        return world_label(self.seed, self.relations)

    def __iter__(self) -> Iterator[Pair]:
        """One pair per fact of the selected relations."""
        from pipeline.data.world.facts import World  # imported here: only runs on the built-in world need it

        for fact in World(seed=self.seed, relations=self.relations).facts:
            yield Pair(fact.statement, fact.target_true)
