"""Facts as in the editing literature, and corpora: text that represents a model's knowledge."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from editors.errors import DataError


@runtime_checkable
class Corpus(Protocol):
    """Documents that can be read repeatedly, always the same and in the same order."""

    def identity(self) -> str:
        """A text that is equal for equal documents; caches of statistics are named by it."""
        ...

    @property
    def label(self) -> str:
        """A readable description of the documents, computed without reading them."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The documents."""
        ...


@runtime_checkable
class TextReader(Protocol):
    """An object that reads texts, or pairs of them, after the model is loaded."""

    def will_read(self, model: str) -> Iterable[Iterable[object]]:
        """The texts that it certainly reads for a model of this name, so that they can be opened before.

        None that a cache may make unnecessary.
        """
        ...


@runtime_checkable
class Protecting(Protocol):
    """What an editor measures on a text that its edits shall change little."""

    @property
    def protects(self) -> Corpus:
        """The text, on which a drift looks smaller than on others."""
        ...


Reader = Callable[[str], str]
"""What a model reads in place of a prompt, such as the prompt after a sentence with an edited fact."""


def as_it_is(prompt: str) -> str:
    """The reader of prompts alone, for models whose edits are in their weights."""
    return prompt


SLOT = "{}"
_INVISIBLE = (
    "\0\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"
    "\u115f\u1160\u2800\u3164\uffa0"  # fillers of Hangul and Braille
)
_BLANK = _INVISIBLE + "".join(filter(str.isspace, map(chr, range(0x3001))))
"""Characters that nobody sees at the ends of a text: every kind of space, and those of no width."""


def trimmed(text: str) -> str:
    """The text without space and invisible characters at its ends.

    A prompt that ends in a space asks for a token that hardly ever follows one.

    Raises:
        DataError: if the text holds a NUL character or half of a surrogate pair: it was decoded wrongly.
    """
    stripped = text.strip(_BLANK)
    if not stripped.isascii() and any("\ud800" <= character <= "\udfff" for character in stripped):
        raise DataError(f"the text {stripped!r} holds half of a surrogate pair: write it in UTF-8 again")
    if "\0" in stripped:
        raise DataError(f"the text {stripped!r} holds a NUL character: write it in UTF-8 again")
    return stripped


def clean(text: str) -> str:
    """`trimmed`, and in Unicode's composed form (NFC): two forms of a letter would be different tokens."""
    return trimmed(unicodedata.normalize("NFC", text))


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One request to edit: after it, `statement` should be continued by `target_new`.

    Holds text only, no tokens and no tensors. Every text is stored `clean`, and blank paraphrases, neighbours
    and pairs are left out: nothing could be read off their scores.
    Source: CounterFact (Meng et al. 2022, arXiv 2202.05262).
    """

    id: str
    """Unique within its data set."""
    prompt: str
    """Text with the slot `{}` exactly once, in place of the subject."""
    subject: str
    """The entity that the fact is about."""
    target_new: str
    """The object that the edit writes."""
    target_true: str = ""
    """The object before the edit; empty if the data set has none."""
    relation: str = ""
    """Name of the relation; empty if the data set has none."""
    paraphrases: tuple[str, ...] = ()
    """Other prompts that the new object should follow."""
    neighbours: tuple[str, ...] = ()
    """Prompts about other subjects that `target_true` should still follow."""
    locality: tuple[tuple[str, str], ...] = ()
    """Unrelated (prompt, answer) pairs whose answer should not change (zsRE)."""
    replaces: str = ""
    """Id of an earlier edit of the same prompt that this fact replaces."""
    portability: tuple[tuple[str, str], ...] = ()
    """(prompt, answer) pairs that follow from the edit, such as questions of two steps (EasyEdit, MQuAKE)."""

    def __post_init__(self) -> None:
        for name in ("prompt", "subject", "target_new", "target_true"):
            object.__setattr__(self, name, clean(getattr(self, name)))
        for name in ("paraphrases", "neighbours"):
            prompts = (clean(prompt) for prompt in getattr(self, name))
            object.__setattr__(self, name, tuple(prompt for prompt in prompts if prompt))
        for name in ("locality", "portability"):
            pairs = ((clean(prompt), clean(answer)) for prompt, answer in getattr(self, name))
            object.__setattr__(self, name, tuple(pair for pair in pairs if all(pair)))
        if self.prompt.count(SLOT) != 1:
            raise DataError(f"fact {self.id}: the prompt {self.prompt!r} needs the slot {{}} exactly once")
        for name in ("subject", "target_new"):
            if not getattr(self, name):
                raise DataError(f"fact {self.id}: {name} is empty")

    @property
    def statement(self) -> str:
        """The prompt with the subject in its slot."""
        return self.prompt.replace(SLOT, self.subject)
