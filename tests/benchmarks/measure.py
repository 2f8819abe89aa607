"""Timing two ways of doing the same work, and the table of what was found."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, str | float]
"""`name`, `plain_s`, `fast_s`, `ratio`, `note`, and what else a row wants to say, such as `difference`: the
largest relative Frobenius difference between the results of both ways in float32."""


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes, on a GPU too if there is one."""
    _wait()
    begun = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    """Until the GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(
    name: str,
    *,
    fast: Callable[[], object],
    plain: Callable[[], object],
    note: str,
    runs: int = 3,
    **more: str | float,
) -> Row:
    """Medians of alternating runs."""
    pairs = [(timed(fast), timed(plain)) for _ in range(runs)]
    fast_s, plain_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    return against(name, fast_s, plain_s, note, **more)


def extrapolated(work: Callable[[int], object], count: int) -> float:
    """Seconds of `work(count)` where it takes a fixed time and a time for each: measured at 1 and 3."""
    one, three = timed(lambda: work(1)), timed(lambda: work(3))
    return one + (three - one) / 2 * (count - 1)


def against(name: str, fast_s: float, plain_s: float, note: str, **more: str | float) -> Row:
    """A row of two times."""
    ratio = plain_s / fast_s
    return {"name": name, "plain_s": plain_s, "fast_s": fast_s, "ratio": ratio, "note": note, **more}


def write(rows: Sequence[Row], path: Path) -> list[Row]:
    """Put the rows into the list at `path`, in the place of older ones of the same name."""
    old: list[Row] = json.loads(path.read_text()) if path.exists() else []
    new = {str(row["name"]): row for row in [*old, *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(new.values()), indent=2) + "\n")
    return list(new.values())


def show(rows: Sequence[Row]) -> None:
    """Print them as a table."""
    table = Table("name", "plain s", "fast s", "ratio", "difference", "note")
    for row in rows:
        seconds = (f"{row[name]:.2f}" for name in ("plain_s", "fast_s"))
        difference = f"{row['difference']:.0e}" if "difference" in row else ""
        table.add_row(str(row["name"]), *seconds, f"{row['ratio']:.1f}", difference, str(row["note"]))
    Console().print(table)
