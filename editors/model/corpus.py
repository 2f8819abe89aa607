"""Text that stands for what a model was trained on; statistics are taken over it."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable


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
