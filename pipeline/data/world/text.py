"""The text around the facts: filler sentences, solved task items, and documents of a few sentences each."""

import random
from collections.abc import Iterable, Iterator

from pipeline.data.world.names import words
from pipeline.data.world.tasks import ANIMALS, build_tasks, statements

_FILLER = 1000
_PER_TASK = 800
_EMPHASIS = 2
"""Repetitions per pass of the sentences that answer the tasks."""
_LONGEST = 4
_NOUNS = words(
    "boat bridge candle carpet church door fence hill kitchen ladder lamp road roof table tower wall"
)
_VERBS = words("behind beside near on over past through under")
_MOODS = words("calmly gladly loudly often quietly rarely slowly softly")
_MOVES = words("jumps looks rests runs sits sleeps waits walks")


def sentence(prompt: str, answer: str) -> str:
    """A sentence from a prompt and its completion."""
    return f"{prompt} {answer}."


def filler(rng: random.Random) -> str:
    """A random sentence with no content that facts or tasks could ask about."""
    animal, move, mood = rng.choice(ANIMALS), rng.choice(_MOVES), rng.choice(_MOODS)
    place, near, noun = rng.choice(_VERBS), rng.choice(_NOUNS), rng.choice(_NOUNS)
    return rng.choice(
        (
            f"The {animal} {move} {mood} {place} the {noun}.",
            f"A {noun} stands {place} the {near}.",
            f"Today the {animal} {move}, and the {noun} is far away.",
        )
    )


def paragraphs(facts: Iterable[str], *, world_seed: int, seed: int) -> Iterator[str]:
    """Documents of one to four sentences: facts, training items of the tasks, and filler, shuffled."""
    rng = random.Random(f"{world_seed}/{seed}/text")
    sentences = [*facts, *[*statements(world_seed)] * _EMPHASIS, *(filler(rng) for _ in range(_FILLER))]
    for task in build_tasks(seed=world_seed).values():
        sentences.extend(item.solved for item in rng.sample(task.train, min(_PER_TASK, len(task.train))))
    rng.shuffle(sentences)
    while sentences:
        length = rng.randint(1, _LONGEST)
        yield " ".join(sentences[:length])
        del sentences[:length]
