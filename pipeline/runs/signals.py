"""Signals as requests: a run saves its state where a step ends, closes what is open, and only then leaves.

USR1 asks for the state to be saved. USR2, TERM and INT ask to leave, with the state saved if a run is in the
middle of its steps. A second signal is obeyed at once: the run then continues from the state before.
"""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NoReturn, Self

from analysis.interrupts import only_ends_the_process, received
from editors.errors import NormscopeError

log = logging.getLogger(__name__)


class JobFailed(NormscopeError):
    """A job of a pool has no result."""


class JobLeft(JobFailed):
    """A job was asked to leave, and can be continued."""


SAVE = signal.SIGUSR1
LEAVE = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


def was_requeued() -> bool:
    """Whether this is a Slurm job that was put back into the queue: it continues, whatever started it."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


class Interrupted(BaseException):
    """The run was asked to leave. No `Exception`, so that a sweep ends with it instead of continuing."""

    def __init__(self, number: int) -> None:
        super().__init__(f"asked to leave by {signal.Signals(number).name}: the same command continues")
        self.number = number


class Requests:
    """Requests to a run by signals, as a context around it.

    Outside of the main thread of a process, which alone receives signals, there are none.
    """

    def __init__(self) -> None:
        self.save = False
        """Whether the state is to be saved at the end of this step."""
        self.leave: int | None = None
        """The signal that asked to leave then."""
        self._stepping = False
        self._earlier: Mapping[int, Any] = {}
        self._receiving = ExitStack()

    def __enter__(self) -> Self:
        """Receive signals."""
        self._earlier = self._receiving.enter_context(received((SAVE, *LEAVE), self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier handlers."""
        self._receiving.close()

    @property
    def pending(self) -> bool:
        """Whether a request waits for the end of this step."""
        return self.save or self.leave is not None

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """While steps are made, requests wait for the end of one, or of the run; before there is nothing to
        save."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def answered(self) -> None:
        """Called when the state is saved: leave if that was requested.

        Raises:
            Interrupted: if a signal asked to leave.
        """
        if self.save:
            log.info("the state is saved, as %s asked for", SAVE.name)
        self.save = False
        if self.leave is not None:
            raise Interrupted(self.leave)

    def depart(self, interrupted: Interrupted) -> NoReturn:
        """Leave the process, once everything is closed: as the earlier receiver of the signal does.

        Under submitit that is its own handler, which puts the job back into Slurm's queue. It stops W&B's
        process at once, and has to come last.
        """
        earlier = self._earlier.get(interrupted.number)
        if callable(earlier) and not only_ends_the_process(earlier):
            earlier(interrupted.number, None)
        raise SystemExit(128 + interrupted.number)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == SAVE:
            self.save = self._stepping
            return
        if not self._stepping or self.leave is not None:
            raise Interrupted(number)
        self.leave = number
        log.warning(
            "%s: saving where this step ends; once more to leave at once", signal.Signals(number).name
        )
