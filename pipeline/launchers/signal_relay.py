"""Signals to a pool, passed on to its jobs."""

import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Self

from analysis.interrupts import received
from pipeline.runs.signals import LEAVE, SAVE

log = logging.getLogger(__name__)

PATIENCE = 2
"""Requests to leave that are passed on to the jobs; the next one kills them."""


class SignalRelay:
    """A context that receives signals to save or to leave, and passes them on to the jobs."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal that asks to leave."""
        self._save = False
        self._times = self._passed = 0
        self._receiving = ExitStack()

    def __enter__(self) -> Self:
        """Receive signals; only the main thread of a process does."""
        self._receiving.enter_context(received((SAVE, *LEAVE), self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier handlers."""
        self._receiving.close()

    def pass_on(self, jobs: Sequence[Callable[[int], None]]) -> None:
        """Pass a request to save to the jobs, and requests to leave, up to `PATIENCE`; then kill them."""
        if self._save:
            self._save = False
            log.info("%s: the runs save and continue", SAVE.name)
            for send in jobs:
                send(SAVE)
        if self.number is None or self._passed == self._times:
            return
        self._passed = self._times
        insistent = self._times > PATIENCE
        log.warning("%s: waiting for %d runs to save and leave", signal.Signals(self.number).name, len(jobs))
        for send in jobs:
            send(signal.SIGKILL if insistent else self.number)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == SAVE:
            self._save = True
            return
        self.number = self.number or number
        self._times += 1
