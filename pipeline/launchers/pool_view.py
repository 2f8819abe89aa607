"""What is shown of a pool: a live table of its runs on a terminal, otherwise a line every 30 seconds."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from rich.console import Console
from rich.live import Live

from pipeline.progress.run_states import RunState
from pipeline.progress.run_table import overview, total
from pipeline.progress.terminal import logged_above

log = logging.getLogger(__name__)

REFRESH = 1.0
"""Seconds between two states of the table."""
SECONDS = 30.0
"""Seconds between two lines."""
_REST = 6
"""Lines of a terminal that are left to headings, totals and messages."""


class PoolView:
    """Shows the states of runs inside this context."""

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        live = Live(
            console=console,
            auto_refresh=False,
            vertical_overflow="crop",
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live = live if console.is_terminal else None
        self._shown = ExitStack()
        self._next = time.monotonic() + (REFRESH if self._live else SECONDS)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live is not None:
            self._shown.enter_context(logged_above(self._console))
            self._shown.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        """End it; the last table stays on the screen."""
        self._shown.close()

    @property
    def owns_output(self) -> bool:
        """Whether standard output is the terminal with the table, in which only this process may write."""
        return self._live is not None and sys.stdout.isatty()

    def show(self, states: Callable[[], Sequence[RunState]], *, last: bool = False) -> None:
        """Show the states if it is time; in a table also the `last` ones."""
        if time.monotonic() < self._next and not (last and self._live):
            return
        self._next = time.monotonic() + (REFRESH if self._live else SECONDS)
        if self._live is None:
            log.info("%s", total(states()))
        else:
            most = max(self._console.height - _REST, 1)
            self._live.update(overview(self._title, states(), most), refresh=True)
