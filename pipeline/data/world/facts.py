"""The generated world: people, four facts about each person, the text that states them, and its tasks."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from editors.data import SLOT, Fact
from pipeline.data.world.names import Relation, person_names, relations_of
from pipeline.data.world.tasks import TaskItem, build_tasks
from pipeline.data.world.text import paragraphs, sentence

_NEIGHBOURS = 4


@dataclass(frozen=True, kw_only=True)
class World:
    """A small world, the same for the same seed.

    Every person has one object per relation. The text states the facts of odd-numbered people in all
    templates and paraphrases, those of even-numbered people never in the two paraphrases, so that these test
    generalisation rather than repetition.
    """

    seed: int = 0
    subjects: int = 500
    relations: Sequence[str] | None = None
    """Names of the relations in facts and text; null is all.

    The facts are those of the whole world; filler and tasks of the text do not depend on this.
    """

    def __post_init__(self) -> None:
        relations_of(self.relations)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact about every person, ordered by person, then by relation."""
        names = person_names(self.subjects, self.seed)
        relations = relations_of(self.relations)
        tables = [self._objects(names, relation) for relation in relations]
        return tuple(
            self._fact(number, name, relation, table)
            for number, name in enumerate(names)
            for relation, table in zip(relations, tables, strict=True)
        )

    @cached_property
    def unheard(self) -> tuple[Fact, ...]:
        """The facts whose paraphrases the training text never uses."""
        return tuple(fact for fact in self.facts if self._is_unheard(fact))

    @cached_property
    def tasks(self) -> dict[str, tuple[TaskItem, ...]]:
        """Test items of the downstream tasks, by the task's name."""
        return {name: task.test for name, task in build_tasks(seed=self.seed).items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Empty: every surname becomes a token of its own, as a frequent word."""
        return ()

    def corpus(self, seed: int = 0) -> Iterator[str]:
        """One pass over the training text, in documents of a few sentences, shuffled by `seed`."""
        sentences: list[str] = []
        for fact, relation in zip(self.facts, relations_of(self.relations) * self.subjects, strict=True):
            prompts = (
                relation.templates if self._is_unheard(fact) else relation.templates + relation.paraphrases
            )
            sentences.extend(
                sentence(prompt.replace(SLOT, fact.subject), fact.target_true) for prompt in prompts
            )
        return paragraphs(sentences, world_seed=self.seed, seed=seed)

    def _is_unheard(self, fact: Fact) -> bool:
        return int(fact.id.split("-")[1]) % 2 == 0

    def _objects(self, names: tuple[str, ...], relation: Relation) -> dict[str, str]:
        """Each person's object; every object equally often."""
        rng = random.Random(f"{self.seed}/{relation.name}")
        objects = [relation.objects[i % len(relation.objects)] for i in range(len(names))]
        rng.shuffle(objects)
        return dict(zip(names, objects, strict=True))

    def _fact(self, number: int, name: str, relation: Relation, table: dict[str, str]) -> Fact:
        rng = random.Random(f"{self.seed}/{relation.name}/{name}")
        true = table[name]
        prompt = rng.choice(relation.templates)
        others = [other for other, value in table.items() if value == true and other != name]
        near = rng.sample(others, min(_NEIGHBOURS, len(others)))
        return Fact(
            id=f"world-{number:04d}-{relation.name}",
            prompt=prompt,
            subject=name,
            target_new=rng.choice([value for value in relation.objects if value != true]),
            target_true=true,
            relation=relation.name,
            paraphrases=tuple(template.replace(SLOT, name) for template in relation.paraphrases),
            neighbours=tuple(prompt.replace(SLOT, other) for other in near),
        )
