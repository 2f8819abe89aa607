"""`python -m pipeline status outputs/<experiment>`: the progress of its runs, on any machine."""

import argparse
import time
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live

from analysis.selection import RUNS, selected
from editors.errors import DataError
from pipeline.progress.run_states import RunState, run_states
from pipeline.progress.run_table import overview

_WIDE = 200
"""Width of the table in columns if the output is not a terminal."""


def main(arguments: Sequence[str]) -> str | int:
    """Print the table; returns an exit status, or the message of an error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline status", description="The progress of runs.")
    parser.add_argument("folders", nargs="+", metavar="outputs/<experiment>", help=RUNS)
    parser.add_argument("--watch", type=_positive, metavar="SECONDS", help="repeat until all runs have ended")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    try:
        if options.watch is None:
            console.print(*(overview(text, _states(text)) for text in options.folders), sep="\n")
        else:
            _watch(console, options.folders, options.watch)
    except DataError as error:
        return f"error: {error}"
    except OSError as error:
        return f"error: {error.filename} cannot be read: {error.strerror}"
    return 0


def _states(text: str) -> list[RunState]:
    return [state for folder in selected(text) for state in run_states(folder)]


def _watch(console: Console, texts: Sequence[str], seconds: float) -> None:
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            states = {text: _states(text) for text in texts}
            live.update(Group(*(overview(text, runs) for text, runs in states.items())), refresh=True)
            if not any(run.state in ("running", "waiting") for runs in states.values() for run in runs):
                return
            time.sleep(seconds)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value
