"""What is counted along a part of a run: facts that were edited, or optimiser steps that were taken."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

Unit = Literal["edits", "steps"]
UNITS: tuple[str, ...] = get_args(Unit)

WORDS: Mapping[str, str] = MappingProxyType(
    {"edits": "edits", "steps": "optimiser steps", "tokens": "trained tokens"}
)
"""How people are told what is counted."""


def amounts(counts: Iterable[int], unit: str) -> str:
    """Such as "100, 200 edits", of the different counts that are not 0; empty where there are none."""
    *fewer, most = sorted({*map(int, counts), 0})
    return ", ".join([*(str(count) for count in fewer if count), counted(most, unit)]) if most else ""


def counted(count: int, unit: str) -> str:
    """Such as "1 edit" or "30 optimiser steps"."""
    words = WORDS[unit]
    return f"{count} {words[:-1] if count == 1 else words}"
