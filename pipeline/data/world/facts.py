"""The generated world: people, four facts about each, the text that tells them and the tasks beside them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from editors.data import SLOT, Fact
from pipeline.data.world.names import Relation, chosen, people
from pipeline.data.world.tasks import TaskItem, build_tasks
from pipeline.data.world.text import paragraphs, tell

_NEIGHBOURS = 4


@dataclass(frozen=True, kw_only=True)
class World:
    """A small world, the same for the same seed.

    Every person has one object per relation. Odd people's facts are told in all templates, even people's
    never in the two paraphrases, so that these test what was understood rather than repeated.
    """

    seed: int = 0
    subjects: int = 500
    relations: Sequence[str] | None = None
    """What is known and told of people, by the names of relations; everything where it is null.

    The facts are those that the whole world has; the text has its filler and its tasks all the same.
    """

    def __post_init__(self) -> None:
        chosen(self.relations)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact about every person, in a fixed order: person by person, relation by relation."""
        names = people(self.subjects, self.seed)
        relations = chosen(self.relations)
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
        """None: every surname becomes a token of its own, as a frequent word."""
        return ()

    def corpus(self, seed: int = 0) -> Iterator[str]:
        """One pass over everything there is to learn, in documents of a few sentences, shuffled by `seed`."""
        told: list[str] = []
        for fact, relation in zip(self.facts, chosen(self.relations) * self.subjects, strict=True):
            prompts = (
                relation.templates if self._is_unheard(fact) else relation.templates + relation.paraphrases
            )
            told.extend(tell(prompt.replace(SLOT, fact.subject), fact.target_true) for prompt in prompts)
        return paragraphs(told, world_seed=self.seed, seed=seed)

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
