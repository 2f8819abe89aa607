"""A world made of the facts of another data set, so that a tiny model knows them before they are edited."""

from collections.abc import Iterator
from dataclasses import dataclass

from editors.data import Fact
from pipeline.data.world.names import person_names
from pipeline.data.world.tasks import TaskItem, build_tasks
from pipeline.data.world.text import paragraphs, sentence

_EMPHASIS = 6
"""Repetitions of a fact per pass; a neighbour appears once, because its siblings state the same object."""
_CONTRASTS = 4
"""Invented people per fact."""


@dataclass(frozen=True, kw_only=True)
class BorrowedWorld:
    """Facts of any data set; the text states their true objects in prompts, paraphrases and neighbours.

    Every subject is a single token. If a subject had several, a tiny model would read whichever token
    distinguishes the subjects of its few facts, and an edit at the last one would fail.
    """

    facts: tuple[Fact, ...]
    seed: int = 0

    @property
    def tasks(self) -> dict[str, tuple[TaskItem, ...]]:
        """Test items of the built-in world's downstream tasks; the text contains their training items."""
        return {name: task.test for name, task in build_tasks(seed=self.seed).items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects of the facts, each to become a single token."""
        return tuple(sorted({fact.subject for fact in self.facts}))

    def corpus(self, seed: int = 0) -> Iterator[str]:
        """One pass over the training text, in documents of a few sentences, shuffled by `seed`."""
        sentences = [*self._contrasts()]
        for fact in self.facts:
            sentences += [
                sentence(prompt, fact.target_true) for prompt in (fact.statement, *fact.paraphrases)
            ] * _EMPHASIS
            sentences += [sentence(prompt, fact.target_true) for prompt in fact.neighbours]
        return paragraphs(sentences, world_seed=self.seed, seed=seed)

    def _contrasts(self) -> Iterator[str]:
        """Sentences that state the new objects of invented people in the same words.

        The neighbours of a fact all share its true object, so without these the prompt alone would determine
        the object whatever the subject. A model also cannot predict a word that it has never read.
        """
        invented = person_names(_CONTRASTS * len(self.facts), self.seed)
        for number, fact in enumerate(self.facts):
            for name in invented[_CONTRASTS * number : _CONTRASTS * (number + 1)]:
                for prompt in (p for p in (fact.statement, *fact.paraphrases) if fact.subject in p):
                    yield sentence(prompt.replace(fact.subject, name), fact.target_new)
