"""Profiles, such as a norm by block, at chosen edit counts: which of the measured counts those are.

By default a middle and the last measured count; told counts are taken at the nearest measured one of each
run, and the title says which that is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

Choose = Callable[[np.ndarray], int]
"""From the counts of a run at which the whole profile was measured, in order, one of them."""


_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What figures are made of: the tidy table, and the edit counts that a user asked for."""

    metrics: pd.DataFrame
    at: Sequence[int] = field(default=())
    """Empty: each figure's own choice."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Rows of all runs at one chosen count."""

    title: str
    """Such as `60 edits`."""
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

    Values that are not finite are left out. With `whole` the counts are those at which a run has every value
    of the profile: between them a stage may measure the edited matrices alone.
    """
    after = rows[(rows["edits"] > 0) & np.isfinite(rows["value"])]
    given = _whole(after) if whole else after
    wanted = [(str(count), _nearest(count)) for count in at] or [("", choose) for choose in default]
    found: dict[tuple[tuple[str, int], ...], Profile] = {}
    for asked, choose in wanted:
        taken = {str(run): choose(np.sort(counts.unique())) for run, counts in given.groupby("run")["edits"]}
        if taken:
            chosen = given[given["edits"] == given["run"].map(taken)]
            profile = Profile(title=_told(sorted(set(taken.values())), asked), rows=chosen)
            found.setdefault(tuple(taken.items()), profile)
    return list(found.values())


def side_by_side(found: Sequence[Profile]) -> int:
    """Columns of a grid in which every row is of one kind: the counts next to one another."""
    return 3 if len(found) % 3 == 0 else 2


def start(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unedited models."""
    return rows[rows["edits"] == 0]


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    sizes = rows.groupby(["run", "edits"])["value"].transform("size")
    return rows[sizes == sizes.groupby(rows["run"]).transform("max")]


def _nearest(count: int) -> Choose:
    return lambda counts: int(counts[np.abs(counts - count).argmin()])


def _told(counts: Sequence[int], asked: str) -> str:
    exact = [str(count) for count in counts] == [asked]
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    unit = "edit" if span == "1" else "edits"
    # a title that is broken into lines keeps a number with its word
    told = f"{span}{_NO_BREAK}{unit}"
    return told if exact or not asked else f"{told} (asked:{_NO_BREAK}{asked})"
