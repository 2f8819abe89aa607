"""Counts along a run, and profiles, such as a norm by block, at selected counts.

By default these are a middle and the last measured count; a requested count is replaced by the nearest
measured one of each part of a run, which the title names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.units import WORDS, counted

Choose = Callable[[np.ndarray], int]
"""Selects one of the counts, in ascending order, at which a part of a run measured the whole profile."""

PART = ["run", "part"]
"""Columns that identify the part of a run to which a row belongs."""

_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """The input of a figure: the tidy table and the counts that a user requested."""

    metrics: pd.DataFrame
    at: Sequence[int] = field(default=())
    """Counts of the figures by block; if empty, each figure uses its own."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Rows of all runs at one selected count."""

    title: str
    """For example `60 edits` or `200 optimiser steps`."""
    rows: pd.DataFrame


def last(counts: np.ndarray) -> int:
    """The last count."""
    return int(counts[-1])


def middle(counts: np.ndarray) -> int:
    """The count nearest to the middle between the first and the last on a logarithmic scale."""
    places = np.log(counts)
    return int(counts[np.abs(places - (places[0] + places[-1]) / 2).argmin()])


def profiles(
    rows: pd.DataFrame, at: Sequence[int], *, default: Sequence[Choose], whole: bool = True
) -> list[Profile]:
    """The rows at every selected count after the start; equal selections appear once.

    Values that are not finite are left out. With `whole`, only counts at which a part of a run has every
    value of the profile are eligible: between them a stage may measure the edited matrices alone.
    """
    after = rows[(rows["count"] > 0) & np.isfinite(rows["value"])]
    eligible = _whole(after) if whole else after
    selectors = [(str(count), _nearest(count)) for count in at] or [("", choose) for choose in default]
    selected: dict[tuple[tuple[object, int], ...], Profile] = {}
    counts = [(part, np.sort(each.unique())) for part, each in eligible.groupby(PART)["count"]]
    for request, choose in selectors:
        count_of_part = {part: choose(each) for part, each in counts}
        if count_of_part:
            places = pd.MultiIndex.from_frame(eligible[PART])
            rows_here = eligible[eligible["count"] == pd.Series(count_of_part).reindex(places).to_numpy()]
            profile = Profile(title=_title(rows_here, request), rows=rows_here)
            selected.setdefault(tuple(count_of_part.items()), profile)
    return list(selected.values())


def side_by_side(profiles: Sequence[Profile]) -> int:
    """Columns of a grid whose rows each hold one kind of panel, with the counts side by side."""
    return 3 if len(profiles) % 3 == 0 else 2


def start(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unedited models."""
    return rows[(rows["part"] == 0) & (rows["count"] == 0)]


def words_for(rows: pd.DataFrame) -> str:
    """The units of the counts of the rows, such as `edits or optimiser steps`."""
    return " or ".join(words for unit, words in WORDS.items() if unit in set(rows["unit"]))


def changed_by(rows: pd.DataFrame) -> str:
    """The participle for the matrices that changed: `edited`, or `changed` if some were trained."""
    return "edited" if set(rows["unit"]) <= {"edits"} else "changed"


def over_tokens(metrics: pd.DataFrame) -> pd.DataFrame:
    """The table with training counted in the tokens read, for parts that logged them."""
    known = metrics.groupby(PART)["tokens"].transform("max") > 0
    trains = known & (metrics["unit"] == "steps")
    # earlier parts may have read tokens as well
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


def _title(rows: pd.DataFrame, request: str) -> str:
    """The counts of the rows by unit, and the requested count if it differs."""
    spans = [_span(sorted(set(counts)), str(unit)) for unit, counts in rows.groupby("unit")["count"]]
    # wrapped titles keep a number with its word
    counts = " / ".join(span.replace(" ", _NO_BREAK, 1) for span in spans)
    exact = {str(count) for count in rows["count"]} == {request}
    return counts if exact or not request else f"{counts} (asked:{_NO_BREAK}{request})"


def _span(counts: Sequence[int], unit: str) -> str:
    first, last = counts[0], counts[-1]
    return counted(first, unit) if first == last else f"{first}–{counted(last, unit)}"
