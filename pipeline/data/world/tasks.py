"""Four small downstream tasks in the language of the world, about animals and reviews, never about people.

Each item is a text with a few choices, one of them right, in the form of SST, closed-book question answering,
MMLU or GLUE's sentence pairs. Test items are never part of the training text and concern no edited fact, so a
lower score after an edit means a lost ability.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.data.world.names import words

ANIMALS = words(
    "ant badger bear beaver bee camel cat cow crab crow deer dog dove duck eagle fox frog "
    "goat goose hare hawk hen horse lamb lion lizard mole moose mouse mule otter owl ox "
    "panda pig pony rabbit rat raven seal shark sheep snake swan tiger toad wolf zebra"
)
_ATTRIBUTES = {
    "home": words("cave desert forest garden island lake marsh meadow river valley"),
    "food": words("apples berries bread corn fish grass honey nuts rice seeds"),
    "colour": words("black blue brown green grey pink purple red white yellow"),
    "season": words("autumn spring summer winter"),
}
_STATEMENTS = {
    "home": (
        "The {} lives near the",
        "Look for the {} at the",
        "The {} was seen by the",
        "Home for the {} is the",
    ),
    "food": ("The {} likes to eat", "Every {} is fed with", "Give the {} some", "The {} came for the"),
    "colour": (
        "The {} is painted",
        "The coat of the {} is",
        "They drew the {} in",
        "Its colour makes the {} look",
    ),
    "season": ("The {} is happy in", "The best time for the {} is", "Expect the {} in", "The {} wakes up in"),
}
_QUESTIONS = {
    "home": ("where does the {} live?", "where is the {}?", "what is the home of the {}?"),
    "food": ("what does the {} eat?", "what does the {} like?", "what is fed to the {}?"),
    "colour": ("which colour has the {}?",),
    "season": ("when is the {} happy?",),
}
_PRAISE = words("bright brilliant charming clever fine funny great lovely moving superb warm wonderful")
_BLAME = words("awful boring clumsy dreadful dull empty flat horrid poor stale tired weak")
_WORKS = words("actor book comedy concert ending film novel play plot script show story")
_TEST_SIZE = 120
_PAIRS = 3000
_DRAWS = 3


@dataclass(frozen=True, kw_only=True)
class TaskItem:
    """A text to be continued with the right one of a few choices."""

    text: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice."""

    @property
    def solved(self) -> str:
        """The text with the right answer, as a sentence of the training text."""
        return f"{self.text} {self.choices[self.answer]}."


@dataclass(frozen=True, kw_only=True)
class Task:
    """Training items and test items of a task; they are disjoint."""

    train: tuple[TaskItem, ...]
    test: tuple[TaskItem, ...]


def statements(seed: int) -> Iterator[str]:
    """Sentences that state every attribute of every animal, in several wordings."""
    for (animal, attribute), value in _knowledge(seed).items():
        for template in _STATEMENTS[attribute]:
            yield f"{template.replace('{}', animal)} {value}."


def build_tasks(*, seed: int) -> dict[str, Task]:
    """The four tasks; the training text states the answers to `qa` and `choice`, but asks no questions."""
    makers = {"sentiment": _sentiment, "qa": _qa, "choice": _choice, "pair": _pair}
    return {name: _split(maker(seed), f"{seed}/{name}") for name, maker in makers.items()}


def _split(groups: list[tuple[TaskItem, ...]], seed: str) -> Task:
    """The groups of items, split into test and training; the items of a group ask the same question."""
    random.Random(seed).shuffle(groups)
    cut = min(_TEST_SIZE // len(groups[0]), len(groups) // 3)
    test, train = (tuple(itertools.chain(*part)) for part in (groups[:cut], groups[cut:]))
    return Task(test=test, train=train)


def _knowledge(seed: int) -> dict[tuple[str, str], str]:
    rng = random.Random(f"{seed}/animals")
    return {(a, kind): rng.choice(values) for a in ANIMALS for kind, values in _ATTRIBUTES.items()}


def _sentiment(seed: int) -> list[tuple[TaskItem, ...]]:
    choices = ("good", "bad")
    return [
        (TaskItem(text=f"Review: the {work} was {one} and {two}. Verdict:", choices=choices, answer=answer),)
        for answer, adjectives in enumerate((_PRAISE, _BLAME))
        for work, (one, two) in itertools.product(_WORKS, itertools.permutations(adjectives, 2))
    ]


def _qa(seed: int) -> list[tuple[TaskItem, ...]]:
    groups = []
    for (animal, kind), value in _knowledge(seed).items():
        if kind in ("home", "food"):
            choices = _choices(kind, value, random.Random(f"{seed}/{animal}/{kind}"))
            texts = [f"Question: {q.replace('{}', animal)} Answer:" for q in _QUESTIONS[kind]]
            groups.append(tuple(_item(text, value, choices) for text in texts))
    return groups


def _choice(seed: int) -> list[tuple[TaskItem, ...]]:
    groups = []
    for (animal, kind), value in _knowledge(seed).items():
        if kind in ("colour", "season"):
            rng = random.Random(f"{seed}/{animal}/{kind}")
            question = f"Question: {_QUESTIONS[kind][0].replace('{}', animal)}"
            draws = [_choices(kind, value, rng) for _ in range(_DRAWS)]
            texts = [f"{question} Choices: {', '.join(draw)}. Answer:" for draw in draws]
            groups.append(tuple(_item(text, value, draw) for text, draw in zip(texts, draws, strict=True)))
    return groups


def _choices(kind: str, value: str, rng: random.Random) -> tuple[str, ...]:
    wrong = rng.sample([other for other in _ATTRIBUTES[kind] if other != value], 3)
    return tuple(rng.sample([value, *wrong], 4))


def _item(text: str, value: str, choices: tuple[str, ...]) -> TaskItem:
    return TaskItem(text=text, choices=choices, answer=choices.index(value))


def _pair(seed: int) -> list[tuple[TaskItem, ...]]:
    """Pairs of sentences with the question whether both praise; the answer is yes for half of them."""
    rng = random.Random(f"{seed}/pairs")
    texts: set[str] = set()
    groups = []
    while len(groups) < _PAIRS:
        answer = len(groups) % 2
        kinds = (
            rng.choice(((_BLAME, _PRAISE), (_PRAISE, _BLAME), (_BLAME, _BLAME))) if answer else (_PRAISE,) * 2
        )
        one, two = (f"the {rng.choice(_WORKS)} was {rng.choice(kind)}" for kind in kinds)
        text = f"First: {one}. Second: {two}. Both good?"
        if text not in texts:
            texts.add(text)
            groups.append((TaskItem(text=text, choices=("yes", "no"), answer=answer),))
    return groups
