"""What is counted along a run, and profiles, such as a norm by block, at chosen counts.

By default a middle and the last measured count; told counts are taken at the nearest measured one of each
run's part, and the title says which that is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.units import WORDS, counted

Choose = Callable[[np.ndarray], int]
"""From the counts of a part of a run at which the whole profile was measured, in order, one of them."""

PART = ["run", "part"]
"""Columns that say which part of which run a row belongs to."""

_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What figures are made of: the tidy table, and the counts that a user asked for."""

    metrics: pd.DataFrame
    at: Sequence[int] = field(default=())
    """Empty: each figure's own choice."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Rows of all runs at one chosen count."""

    title: str
    """Such as `60 edits` or `200 optimiser steps`."""
    rows: pd.DataFrame


def last(counts: np.ndarray) -> int:
    """The last count."""
    return int(counts[-1])


def middle(counts: np.ndarray) -> int:
    """The one nearest to the middle between the first and the last, on a logarithmic scale."""
    places = np.log(counts)
    return int(counts[np.abs(places - (places[0] + places[-1]) / 2).argmin()])


def profiles(
    rows: pd.DataFrame, at: Sequence[int], *, default: Sequence[Choose], whole: bool = True
) -> list[Profile]:
    """The rows at every chosen count after the start, equal choices once.

    Values that are not finite are left out. With `whole` the counts are those at which a part of a run has
    every value of the profile: between them a stage may measure the edited matrices alone.
    """
    after = rows[(rows["count"] > 0) & np.isfinite(rows["value"])]
    given = _whole(after) if whole else after
    wanted = [(str(count), _nearest(count)) for count in at] or [("", choose) for choose in default]
    found: dict[tuple[tuple[object, int], ...], Profile] = {}
    counts = [(part, np.sort(each.unique())) for part, each in given.groupby(PART)["count"]]
    for asked, choose in wanted:
        taken = {part: choose(each) for part, each in counts}
        if taken:
            here = pd.Series(taken).reindex(pd.MultiIndex.from_frame(given[PART])).to_numpy()
            chosen = given[given["count"] == here]
            found.setdefault(tuple(taken.items()), Profile(title=_told(chosen, asked), rows=chosen))
    return list(found.values())


def side_by_side(found: Sequence[Profile]) -> int:
    """Columns of a grid in which every row is of one kind: the counts next to one another."""
    return 3 if len(found) % 3 == 0 else 2


def start(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unedited models."""
    return rows[(rows["part"] == 0) & (rows["count"] == 0)]


def words_for(rows: pd.DataFrame) -> str:
    """What the counts of the rows are, such as `edits or optimiser steps`."""
    return " or ".join(words for unit, words in WORDS.items() if unit in set(rows["unit"]))


def changed_by(rows: pd.DataFrame) -> str:
    """What was done to the matrices that changed: `edited`, or `changed` where some were trained."""
    return "edited" if set(rows["unit"]) <= {"edits"} else "changed"


def over_tokens(metrics: pd.DataFrame) -> pd.DataFrame:
    """The table with parts that train counted in the tokens that they read, where those were logged."""
    known = metrics.groupby(PART)["tokens"].transform("max") > 0
    trains = known & (metrics["unit"] == "steps")
    # an earlier part may have read some before
    before = metrics["tokens"].where(metrics["count"] == 0)
    earlier = before.groupby([metrics[column] for column in PART]).transform("max").fillna(0)
    read = metrics["tokens"] - earlier.astype("int64")
    return metrics.assign(
        count=metrics["count"].where(~trains, read), unit=metrics["unit"].where(~trains, "tokens")
    )


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    sizes = rows.groupby([*PART, "count"])["value"].transform("size")
    return rows[sizes == sizes.groupby([rows[column] for column in PART]).transform("max")]


def _nearest(count: int) -> Choose:
    return lambda counts: int(counts[np.abs(counts - count).argmin()])


def _told(rows: pd.DataFrame, asked: str) -> str:
    """The counts of the rows, of each unit."""
    spans = [_span(sorted(set(counts)), str(unit)) for unit, counts in rows.groupby("unit")["count"]]
    # a title that is broken into lines keeps a number with its word
    told = " / ".join(span.replace(" ", _NO_BREAK, 1) for span in spans)
    exact = {str(count) for count in rows["count"]} == {asked}
    return told if exact or not asked else f"{told} (asked:{_NO_BREAK}{asked})"


def _span(counts: Sequence[int], unit: str) -> str:
    first, last = counts[0], counts[-1]
    return counted(first, unit) if first == last else f"{first}–{counted(last, unit)}"
