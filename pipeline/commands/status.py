"""`python -m pipeline status outputs/<experiment>`: the progress of its runs, on any machine."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.results.run_files import one_line
from editors.errors import DataError
from editors.text_files import local_path
from pipeline.progress.run_states import RunState, State, run_states, seconds_left
from pipeline.runs import messages
from pipeline.runs.messages import duration

_COLOURS = {"running": "cyan", "failed": "red", "interrupted": "yellow", "waiting": "dim", "done": "green"}
_HINTS = {"interrupted": "the same command continues it"}
_WIDE = 200
"""Width of the table in columns if the output is not a terminal."""


def main(arguments: Sequence[str]) -> str | int:
    """Print the table; returns an exit status, or the message of an error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline status", description="The progress of runs.")
    parser.add_argument("folders", nargs="+", type=local_path, metavar="outputs/<experiment>")
    parser.add_argument("--watch", type=_positive, metavar="SECONDS", help="repeat until all runs have ended")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    try:
        if options.watch is None:
            console.print(*(overview(folder, run_states(folder)) for folder in options.folders), sep="\n")
        else:
            _watch(console, options.folders, options.watch)
    except DataError as error:
        return f"error: {error}"
    except OSError as error:
        return f"error: {error.filename} cannot be read: {error.strerror}"
    return 0


def overview(folder: Path, runs: Sequence[RunState]) -> RenderableType:
    """The runs as a table, running and failed ones first, above a line with the totals."""
    order = get_args(State)
    lines = messages.without_shared([run.overrides for run in runs])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "overrides", ""):
        table.add_column(name, overflow="fold", no_wrap=name in ("run", "state"))
    for run, line in sorted(zip(runs, lines, strict=True), key=lambda pair: order.index(pair[0].state)):
        state = Text(run.state, style=_COLOURS[run.state])
        table.add_row(Text(run.run), state, Text(line), Text(_message(run)))
    return Group(table, Text(one_line(f"{folder}: {total(runs)}"), style="bold"))


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


def _watch(console: Console, folders: Sequence[Path], seconds: float) -> None:
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            states = {folder: run_states(folder) for folder in folders}
            live.update(Group(*(overview(folder, runs) for folder, runs in states.items())), refresh=True)
            if not any(run.state in ("running", "waiting") for runs in states.values() for run in runs):
                return
            time.sleep(seconds)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value
