"""Facts that a model cannot read: texts longer than its positions, and words without tokens of their own."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from editors.data import Fact
from editors.errors import DataError
from editors.models.model import Model
from editors.models.tokenization import Tokens, in_context, tokenize_all

_AT_ONCE = 4096
"""Texts that are tokenised together."""


class Reading(NamedTuple):
    """A prompt with its continuation, as it is edited or scored."""

    prompt: str
    continuation: str
    subject: tuple[int, int] | None = None
    """Characters of the subject, if its last token has to be found."""

    @property
    def text(self) -> str:
        """Prompt and continuation, with a space between them."""
        return f"{self.prompt} {self.continuation}"


def edited(fact: Fact, contexts: Sequence[str]) -> Iterator[Reading]:
    """The fact in each context, as editors read it."""
    for context in contexts:
        prompt, subject = in_context(fact, context)
        yield Reading(prompt, fact.target_new, subject)


def known(fact: Fact) -> Reading:
    """The statement with its object before any edit, as stages score facts that are not edited."""
    return Reading(fact.statement, fact.target_true or fact.target_new)


def scored(fact: Fact) -> Iterator[Reading]:
    """Every prompt of the fact with each object, as stages score an edit."""
    for prompt in (fact.statement, *fact.paraphrases, *fact.neighbours):
        yield from (Reading(prompt, target) for target in (fact.target_new, fact.target_true) if target)
    yield from (Reading(*pair) for pair in (*fact.locality, *fact.portability))


def faults(model: Model, readings: Sequence[Sequence[Reading]]) -> list[str]:
    """For each group of readings the first fault; empty if the model can read all of the group."""
    result = [""] * len(readings)
    numbered = [(index, reading) for index, group in enumerate(readings) for reading in dict.fromkeys(group)]
    for first in range(0, len(numbered), _AT_ONCE):
        chunk = numbered[first : first + _AT_ONCE]
        texts = tokenize_all(model.tokenizer, [reading.text for _, reading in chunk])
        for (index, reading), tokens in zip(chunk, texts, strict=True):
            result[index] = result[index] or _fault(model, reading, tokens)
    return result


def _fault(model: Model, reading: Reading, tokens: Tokens) -> str:
    if len(tokens.ids) > model.max_tokens:
        return f"{reading.text[:40]!r}… has {len(tokens.ids)} tokens of at most {model.max_tokens}"
    try:
        tokens.first_after(len(reading.prompt))
        if reading.subject is not None:
            tokens.last_of(*reading.subject)
    except DataError as error:
        return str(error)
    return ""
