"""The search space of an editor on a model, from the values that the editor has on other models.

What was chosen differently for different models is worth searching: every key with several published values
gets the range that they span, a little widened. A key with one value everywhere keeps it. A new editor needs
nothing but its values in `conf/hparams`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.models.published import LAYERS, Values, as_text

WIDENED = 1.5
"""Factor by which a range exceeds the published values at either end."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A search space with its first point."""

    space: Mapping[str, str]
    """Values by key, in the grammar of searches."""
    guess: Mapping[str, Any]
    """The first trial: a value for every key of the space."""
    fixed: Mapping[str, Any]
    """Values of the guess that are not searched."""


def box(published: Sequence[Values], guess: Values, layers: Sequence[Sequence[int]]) -> Box:
    """The space around a guess.

    Numbers above zero are searched in the logarithm, whole numbers in whole steps; values that may be zero or
    negative among those that were published. The guess lies inside.

    Args:
        published: Values of the editor for other models.
        guess: Values for this one.
        layers: Ranges of blocks to choose from, that of the guess first.
    """
    space: dict[str, str] = {}
    for key, value in guess.items():
        values = [value, *(each[key] for each in published if key in each)]
        if key != LAYERS and all(map(_is_number, values)) and len(set(values)) > 1:
            space[key] = _range(values)
    first = {key: guess[key] for key in space}
    if len(layers) > 1:
        space[EDITED] = f"choice({','.join(map(as_text, layers))})"
        first[EDITED] = as_text(list(layers[0]))
    fixed = {key: value for key, value in guess.items() if key not in space and key != LAYERS}
    if len(layers) == 1:
        fixed[EDITED] = list(layers[0])
    return Box(space=space, guess=first, fixed=fixed)


EDITED = "layers.edit"
"""Key of the blocks that a run edits."""


def ranges(guess: Sequence[int], peak: int | None, depth: int) -> list[list[int]]:
    """Adjacent blocks to try, as many as in the guess: the guess, those around the peak, neighbours of both.

    Neighbours are shifted by half of their number. The guess comes first; ranges end where the stack ends.
    """
    count = len(guess)
    if list(guess) != list(range(guess[0], guess[0] + count)):
        return [list(guess)]
    shift = max(1, count // 2)
    starts = [guess[0]] + ([] if peak is None else [peak - count // 2])
    firsts = [start + step * shift for step in (0, -1, 1) for start in starts]
    inside = dict.fromkeys(min(max(first, 0), depth - count) for first in firsts)
    return [list(range(first, first + count)) for first in inside]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if low <= 0:
        return f"choice({','.join(map(str, sorted(set(values))))})"
    if all(isinstance(value, int) for value in values):
        return f"range({max(1, math.floor(low / WIDENED))},{math.ceil(high * WIDENED)})"
    return f"tag(log,interval({low / WIDENED!r},{high * WIDENED!r}))"
