"""Facts, as the editing literature writes them, and corpora: text that stands for what a model knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from editors.errors import DataError


@runtime_checkable
class Corpus(Protocol):
    """Documents that can be read again and again, always the same and in the same order."""

    def identity(self) -> str:
        """Equal for equal documents: what a cache of statistics is filed under."""
        ...

    @property
    def label(self) -> str:
        """For people: what the documents are; computed without reading them."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The documents."""
        ...


SLOT = "{}"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One request to edit: after it, `statement` should be continued by `target_new`.

    Holds text only, no tokens and no tensors. Source: CounterFact (Meng et al. 2022, arXiv 2202.05262).
    """

    id: str
    """Unique within its data set."""
    prompt: str
    """Contains the slot `{}` exactly once, where the subject stands."""
    subject: str
    target_new: str
    """The object that the edit writes, without a leading space."""
    target_true: str = ""
    """The object before the edit; empty where a data set gives none."""
    relation: str = ""
    paraphrases: tuple[str, ...] = ()
    """Other prompts that the new object should follow."""
    neighbours: tuple[str, ...] = ()
    """Prompts about other subjects that `target_true` should still follow."""
    locality: tuple[tuple[str, str], ...] = ()
    """Unrelated (prompt, answer) pairs whose answer should not change (zsRE)."""
    replaces: str = ""
    """Id of an earlier edit of the same prompt that this one takes the place of."""

    def __post_init__(self) -> None:
        if self.prompt.count(SLOT) != 1:
            raise DataError(f"fact {self.id}: the prompt {self.prompt!r} needs the slot {{}} exactly once")
        for name in ("subject", "target_new"):
            if not getattr(self, name).strip():
                raise DataError(f"fact {self.id}: {name} is empty")

    @property
    def statement(self) -> str:
        """The prompt with the subject in its slot."""
        return self.prompt.replace(SLOT, self.subject)
