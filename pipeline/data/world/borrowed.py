"""A world made of somebody else's facts, so that editing them means something to a tiny model."""

from collections.abc import Iterator
from dataclasses import dataclass

from editors.data import Fact
from pipeline.data.world.names import people
from pipeline.data.world.tasks import TaskItem, build_tasks
from pipeline.data.world.text import paragraphs, tell

_EMPHASIS = 6
"""How often a pass tells a fact for each time it tells a neighbour, which has siblings to learn from."""
_CONTRASTS = 4
"""Invented people for each fact."""


@dataclass(frozen=True, kw_only=True)
class BorrowedWorld:
    """The true objects of given facts, told in their prompts, paraphrases and neighbours.

    Every subject is a single token. Out of several, a tiny model reads whichever tells the subjects of its
    few facts apart, and an edit at the last one fails.
    """

    facts: tuple[Fact, ...]
    seed: int = 0

    @property
    def tasks(self) -> dict[str, tuple[TaskItem, ...]]:
        """Test items of the built-in world's downstream tasks, which are told here as well."""
        return {name: task.test for name, task in build_tasks(seed=self.seed).items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects."""
        return tuple(sorted({fact.subject for fact in self.facts}))

    def corpus(self, seed: int = 0) -> Iterator[str]:
        """One pass over everything there is to learn, in documents of a few sentences, shuffled by `seed`."""
        told = [*self._contrasts()]
        for fact in self.facts:
            told += [
                tell(prompt, fact.target_true) for prompt in (fact.statement, *fact.paraphrases)
            ] * _EMPHASIS
            told += [tell(prompt, fact.target_true) for prompt in fact.neighbours]
        return paragraphs(told, world_seed=self.seed, seed=seed)

    def _contrasts(self) -> Iterator[str]:
        """The new objects, told of invented people in the same words.

        The neighbours of a fact all share its true object, so that its prompt would give the object away
        without its subject; and a word that is never read cannot be said.
        """
        invented = people(_CONTRASTS * len(self.facts), self.seed)
        for number, fact in enumerate(self.facts):
            for name in invented[_CONTRASTS * number : _CONTRASTS * (number + 1)]:
                for prompt in (p for p in (fact.statement, *fact.paraphrases) if fact.subject in p):
                    yield tell(prompt.replace(fact.subject, name), fact.target_new)
