"""The phases of the work before the first edit, for whoever shows them: a bar, a log, a file.

Code that takes long is given a `Report` and calls it with its present `Phase`. The next call ends a phase.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase and its progress."""

    name: str
    """What is done, such as `collecting second moments`."""
    count: int = 0
    """How much of it is done."""
    total: int = 0
    """How much there is to do; 0 if nobody counts."""
    unit: str = ""
    """The unit of both, in the plural."""

    def __str__(self) -> str:
        """For example `collecting second moments: 12,000 of 100,000 tokens`."""
        counted = f": {self.count:,} of {self.total:,} {self.unit}" if self.total else ""
        return f"{self.name}{counted}"


Report = Callable[[Phase], object]
"""Receives the present phase, often many times a second."""


def silent(phase: Phase) -> None:
    """A `Report` that shows nothing."""
