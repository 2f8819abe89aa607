"""The states of runs as a table and as a line, for terminals and logs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.results.run_files import one_line
from pipeline.progress.run_states import RunState, State, seconds_left
from pipeline.runs import messages
from pipeline.runs.messages import duration

_COLOURS = {"running": "cyan", "failed": "red", "interrupted": "yellow", "waiting": "dim", "done": "green"}
_HINTS = {"interrupted": "the same command continues it"}


def overview(title: Path | str, runs: Sequence[RunState], most: int | None = None) -> RenderableType:
    """The runs as a table, running and failed ones first, above a line with the title and the totals.

    With `most`, at most so many runs have a row, of one line; the others are counted.
    """
    order = get_args(State)
    lines = messages.without_shared([run.overrides for run in runs])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True, min_width=max((len(run.run) for run in runs), default=0))
    table.add_column("state", no_wrap=True, min_width=max(map(len, order)))
    for name in ("overrides", ""):
        table.add_column(name, overflow="fold" if most is None else "ellipsis", no_wrap=most is not None)
    rows = sorted(zip(runs, lines, strict=True), key=lambda pair: order.index(pair[0].state))
    for run, line in rows[:most]:
        state = Text(run.state, style=_COLOURS[run.state])
        table.add_row(Text(run.run), state, Text(line), Text(_message(run)))
    more = [Text(f"… and {len(rows) - most} more")] if most is not None and len(rows) > most else []
    return Group(table, *more, Text(one_line(f"{title}: {total(runs)}"), style="bold"))


def total(runs: Sequence[RunState]) -> str:
    """How many runs are in each state, and when all will be done."""
    counts = Counter(run.state for run in runs)
    parts = [f"{counts[state]} {state}" for state in reversed(get_args(State)) if counts[state]]
    left = seconds_left(runs)
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {', '.join(parts)}" + (
        f"; about {duration(left)} left" if left else ""
    )


def _message(run: RunState) -> str:
    parts = [run.message, _HINTS.get(run.state, "")]
    if run.left is not None:
        parts.append(f"about {duration(run.left)} left")
    if run.state == "done" and run.seconds is not None:
        parts.append(f"in {duration(run.seconds)}")
    return "; ".join(filter(None, parts))
