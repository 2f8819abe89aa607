"""Units of the counts along a part of a run: edited facts, or optimiser steps."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

Unit = Literal["edits", "steps"]
UNITS: tuple[str, ...] = get_args(Unit)

WORDS: Mapping[str, str] = MappingProxyType(
    {"edits": "edits", "steps": "optimiser steps", "tokens": "trained tokens"}
)
"""Names of the units in messages and captions."""


def amounts(counts: Iterable[int], unit: str) -> str:
    """The distinct counts other than 0, such as "100, 200 edits"; empty if there are none."""
    *fewer, most = sorted({*map(int, counts), 0})
    return ", ".join([*(str(count) for count in fewer if count), counted(most, unit)]) if most else ""


def counted(count: int, unit: str) -> str:
    """The count with its unit, such as "1 edit" or "30 optimiser steps"."""
    words = WORDS[unit]
    return f"{count} {words[:-1] if count == 1 else words}"
