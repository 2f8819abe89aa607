"""The differences between two runs: settings, versions and every number that both have measured.

The relative difference of two numbers is |a − b| / max(|a|, |b|), infinite if only one of them is finite.
Times and memory vary between any two runs and never count.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.results.former_targets import comparable
from analysis.results.run import MOMENT, Run, read_unmarked
from analysis.results.run_files import one_line
from analysis.results.run_folder import RunFolder
from analysis.units import UNITS, counted
from editors.errors import DataError

QUIET = ("time/", "memory/")
"""Areas of metrics that never count as a difference."""
_SAME = 24
"""Length of a common prefix of two values that is still displayed, in characters."""
_WHEN = [column for column in MOMENT if column != "tokens"]
_INCOMPARABLE = ("started", "command", "repeat", "overrides", "earlier", "host")
"""Keys of a provenance that differ between any two runs, or repeat settings."""

Moment = tuple[int, str, int]
"""Part, unit and count."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, A and B, side by side."""

    settings: pd.DataFrame
    """Columns key, a, b, places: one row per setting that differs, and the number of its places."""
    provenance: pd.DataFrame
    """The same for code, versions, machine and input files."""
    differences: pd.DataFrame
    """One row per metric that differs by more than the tolerance, the largest relative difference first: key,
    `relative` and `absolute`, the largest ones, and when it first differs, with `a` and `b` there."""
    metrics: int
    """Number of metrics that both have measured at a common moment."""
    common: int
    """Moments that both have."""
    moments: tuple[Sequence[Moment], Sequence[Moment]]
    """Moments that only A and only B has."""
    keys: tuple[Mapping[str, int], Mapping[str, int]]
    """Metrics that only A and only B has measured at common moments, with the number of these moments."""
    seconds: tuple[float, float]
    """Sum of the times that each logged."""
    tolerance: float
    notes: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both have the same metrics, at least one, and equal values within the tolerance."""
        return self.metrics > 0 and not (len(self.differences) or any(self.moments) or any(self.keys))


def read_one(folder: Path) -> Run:
    """A run, finished or not; raises DataError if the folder is no run or holds no numbers."""
    run = RunFolder(folder)
    if not run.is_run:
        raise DataError(f"{folder} is no run: name two folders outputs/<experiment>/<run>")
    return read_unmarked(run)


def comparison(a: Run, b: Run, tolerance: float = 0.0) -> Comparison:
    """Compare every number; those whose relative difference is at most `tolerance` count as equal."""
    times = [sorted(set(run.metrics[_WHEN].itertuples(index=False, name=None))) for run in (a, b)]
    common = set(times[0]) & set(times[1])
    cells = _cells(a).merge(_cells(b), on=[*_WHEN, "key"], how="outer", suffixes=("_a", "_b"), indicator=True)
    # an empty list would select no column
    is_common = np.array([when in common for when in cells[_WHEN].itertuples(index=False, name=None)], bool)
    cells = cells[is_common]
    both = cells[cells["_merge"] == "both"]
    left, right = (Counter(cells.loc[cells["_merge"] == side, "key"]) for side in ("left_only", "right_only"))
    return Comparison(
        settings=_unequal(a.settings, b.settings),
        provenance=_unequal(*(_comparable_provenance(run.provenance) for run in (a, b))),
        differences=_differences(both, tolerance),
        metrics=both["key"].nunique(),
        common=len(common),
        moments=([t for t in times[0] if t not in common], [t for t in times[1] if t not in common]),
        keys=(left, right),
        seconds=(_seconds(a), _seconds(b)),
        tolerance=tolerance,
        notes=tuple(f"{side}: {note}" for side, run in (("A", a), ("B", b)) for note in _notes(run)),
    )


def render_comparison(result: Comparison, a: Path, b: Path, *, rows: int | None = None) -> RenderableType:
    """The comparison for a terminal; of the metrics that differ at most the first `rows`."""
    lines = (f"A: {a}", f"B: {b}", *result.notes)
    parts: list[RenderableType] = [*map(Text, map(one_line, lines))]
    for title, table in (("setting", result.settings), ("code, machine or input", result.provenance)):
        if len(table):
            parts += [Text(), _sides(title, table)]
        else:
            parts.append(Text(f"no {title} differs"))
    parts += [Text(), Text(_verdict(result), style="bold")]
    if len(result.differences):
        parts.append(_numbers(result.differences.head(rows) if rows else result.differences))
    if rows and len(result.differences) > rows:
        parts.append(Text(f"and {len(result.differences) - rows} more: --all shows them"))
    parts += [Text(line) for line in _alone(result)]
    own, other = result.seconds
    areas = ", ".join(f"{area}…" for area in QUIET)
    parts.append(Text(f"not compared: {areas} (A {own:.1f} s, B {other:.1f} s)"))
    return Group(*parts)


def _cells(run: Run) -> pd.DataFrame:
    """The numbers that count, one row each."""
    metrics = run.metrics
    return metrics.loc[~metrics["key"].str.startswith(QUIET), [*_WHEN, "key", "value"]]


def _notes(run: Run) -> list[str]:
    return [*run.notes, *(["DONE holds no digests: nothing was verified"] if run.is_unverifiable else [])]


def _seconds(run: Run) -> float:
    times = run.metrics[run.metrics["key"].str.startswith("time/")]
    return float(times["value"].sum())


def _comparable_provenance(provenance: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in provenance.items() if key.partition(".")[0] not in _INCOMPARABLE}


def _unequal(a: Mapping[str, str], b: Mapping[str, str]) -> pd.DataFrame:
    """Keys with unequal values; for a value at several places, as interpolations are, the shortest key."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for key in dict.fromkeys([*a, *b]):
        own, other = (comparable(key, values.get(key, "–")) for values in (a, b))
        if own != other:
            places.setdefault((key.rpartition(".")[2], own, other), []).append(key)
    rows = [(min(keys, key=len), own, other, len(keys)) for (_, own, other), keys in places.items()]
    return pd.DataFrame(rows, columns=["key", "a", "b", "places"])


def _differences(both: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    a, b = both["value_a"].to_numpy(), both["value_b"].to_numpy()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = np.abs(a - b)
        relative = absolute / np.maximum(np.abs(a), np.abs(b))
    absolute, relative = (np.where(np.isfinite(x), x, math.inf) for x in (absolute, relative))
    absolute, relative = (np.where(same, 0.0, x) for x in (absolute, relative))
    cells = both.assign(absolute=absolute, relative=relative).sort_values([*_WHEN, "key"])
    largest = cells.groupby("key")[["relative", "absolute"]].max()
    first = cells[cells["relative"] > tolerance].drop_duplicates("key").set_index("key")
    first = first[[*_WHEN, "value_a", "value_b"]].rename(columns={"value_a": "a", "value_b": "b"})
    table = first.join(largest).reset_index()
    return table.sort_values(["relative", "key"], ascending=[False, True], ignore_index=True)


def _verdict(result: Comparison) -> str:
    how = "to the bit" if not result.tolerance else f"within {result.tolerance:g}"
    moments = f"at {result.common} common moment{'' if result.common == 1 else 's'}"
    same = result.metrics - len(result.differences)
    if not result.metrics:
        return f"no metric was measured by both {moments}"
    if result.is_equal:
        return f"all {result.metrics} metrics are the same {how} {moments}"
    return (
        f"{same} of {result.metrics} metrics are the same {how} {moments}, {len(result.differences)} differ"
    )


def _alone(result: Comparison) -> list[str]:
    """Sentences on moments and metrics that only one of the runs has."""
    lines: list[str] = []
    for name, moments, keys in zip("AB", result.moments, result.keys, strict=True):
        if moments:
            lines.append(f"only {name} has {_some([_when(*moment) for moment in moments])}")
        if keys:
            lines.append(f"only {name} measured {_some([f'{key} ({n} times)' for key, n in keys.items()])}")
    return lines


def _some(texts: Sequence[str], most: int = 4) -> str:
    left = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{len(texts)}: {', '.join(texts[:most])}{left}"


def _when(part: int, unit: str, count: int) -> str:
    words = next(counted(count, known) for known in UNITS if known == unit)
    return f"part {part}, {words}" if part else words


def _sides(title: str, table: pd.DataFrame) -> Table:
    sides = _table(title, "A", "B")
    for key, a, b, places in table.itertuples(index=False):
        more = f" (at {places} places)" if places > 1 else ""
        sides.add_row(Text(f"{key}{more}"), *map(Text, _apart(a, b)))
    return sides


def _numbers(differences: pd.DataFrame) -> Table:
    numbers = _table("metric", "relative", "absolute", "first differs at", "A there", "B there")
    for row in differences.to_dict("records"):
        when = _when(*(row[column] for column in _WHEN))
        sizes = (f"{row[column]:.2g}" for column in ("relative", "absolute"))
        numbers.add_row(Text(str(row["key"])), *sizes, when, *_written(row["a"], row["b"]))
    return numbers


def _written(a: float, b: float) -> tuple[str, str]:
    """With nine digits, or with all if nine do not distinguish them."""
    short = (f"{a:.9g}", f"{b:.9g}")
    return short if short[0] != short[1] else (repr(a), repr(b))


def _table(first: str, *others: str) -> Table:
    """A table whose first column is folded if necessary; values in the others are cut, ending with …."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    return table


def _apart(a: str, b: str) -> tuple[str, str]:
    """Two values without a long common prefix, so that the difference is visible."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    cut = same - _SAME // 2 if same > _SAME else 0
    return (f"…{a[cut:]}", f"…{b[cut:]}") if cut else (a, b)
