"""Tables and texts in Markdown, escaped."""

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.results.run_files import one_line

_MARKUP = re.compile(r"[\\|<>*`\[\]~$&#@]|(?<![^\W_])_|_(?![^\W_])|(?<=:)/(?=/)|(?<=\bwww)\.", re.IGNORECASE)
"""Letters that begin markup in one of the common dialects, with their extensions for formulas and links."""
_ARXIV = re.compile(r"(?:arXiv )?\b(?P<id>\d{4}\.\d{5})\b")


def cell(text: object) -> str:
    """A text as Markdown shows it, also inside a table: one line, without markup or links of its own.

    An underscore inside a word is no markup, and stays as it is.
    """
    return _MARKUP.sub(r"\\\g<0>", " ".join(one_line(str(text)).split()))


def linked(text: str) -> str:
    """A text of `cell`, with a link for each arXiv id."""
    return _ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\g<id>)", text)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; numbers with three digits."""
    rows = [list(map(str, table.columns)), *table.map(written).to_numpy().tolist()]
    return "\n".join(lines([[cell(text) for text in row] for row in rows]))


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first row is its head; the texts are Markdown already."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *others]


def written(value: object) -> str:
    """A number with three digits, near 1 with two digits of its distance; NaN as a dash; others as text."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value)
    if not isinstance(value, float | np.floating):
        return str(value)
    if np.isnan(value):
        return "–"
    if 1e-7 < abs(value - 1) < 0.01:
        return f"{value:.{1 - math.floor(math.log10(abs(value - 1)))}f}"
    return f"{value:.0f}" if 1000 <= abs(value) < 100_000 else f"{value:.3g}"
