"""Facts as in the editing literature, and corpora: text that represents a model's knowledge."""

from collections.abc import Iterator
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


SLOT = "{}"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One request to edit: after it, `statement` should be continued by `target_new`.

    Holds text only, no tokens and no tensors. Source: CounterFact (Meng et al. 2022, arXiv 2202.05262).
    """

    id: str
    """Unique within its data set."""
    prompt: str
    """Text with the slot `{}` exactly once, in place of the subject."""
    subject: str
    """The entity that the fact is about."""
    target_new: str
    """The object that the edit writes, without a leading space."""
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
