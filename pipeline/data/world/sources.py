"""Facts, texts and training pairs of the built-in world."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.data.corpora import hashed
from pipeline.data.factset import FactSet
from pipeline.data.pairs import Pair
from pipeline.data.world.names import chosen, described


@dataclass(frozen=True, kw_only=True)
class WorldText:
    """The text that the built-in models are trained on."""

    seed: int = 0
    """Of the world; the documents' order is the one of the first pass over them."""
    relations: Sequence[str] | None = None
    """What is told of people, by the names of relations; null is everything."""

    def __post_init__(self) -> None:
        chosen(self.relations)

    def identity(self) -> str:
        """Hash of the documents."""
        return f"world-{hashed(self)}"

    @property
    def label(self) -> str:
        """Which world, and which relations where these are not all."""
        return described(self.seed, self.relations)

    def __iter__(self) -> Iterator[str]:
        """One pass over the world's documents."""
        from pipeline.data.world.facts import World  # here, because only runs on the built-in world need it

        return World(seed=self.seed, relations=self.relations).corpus(self.seed)


@dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """The facts of the built-in world, which the built-in models know."""

    name: str = "world"
    seed: int = 0
    """Of the world; the built-in models know the world of seed 0."""
    relations: Sequence[str] | None = None
    """What is asked of people: some of city, job, instrument and language; null is all of them."""

    def __post_init__(self) -> None:
        chosen(self.relations)

    def load(self) -> FactSet:
        """The world's facts of the chosen relations."""
        from pipeline.data.world.facts import World  # here, because only runs on the built-in world need it

        return FactSet(name=self.name, facts=World(seed=self.seed, relations=self.relations).facts)


@dataclass(frozen=True, kw_only=True)
class WorldPairs:
    """What a built-in world knows of its people, as prompts with objects.

    A world of another seed than the models' has other people: new knowledge in known words.
    """

    seed: int = 1
    relations: Sequence[str] | None = None
    """What is asked of people, by the names of relations; null is everything."""

    def __post_init__(self) -> None:
        chosen(self.relations)

    @property
    def label(self) -> str:
        """Which world, and which relations where these are not all."""
        return described(self.seed, self.relations)

    def __iter__(self) -> Iterator[Pair]:
        """A pair for every fact of the chosen relations."""
        from pipeline.data.world.facts import World  # here, because only runs on the built-in world need it

        for fact in World(seed=self.seed, relations=self.relations).facts:
            yield Pair(fact.statement, fact.target_true)
