"""The progress of a run in a log: a line every 30 seconds, where there is no terminal."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Self

from analysis.metrics import NORM_RATIO
from editors.phases import Phase
from pipeline.interventions.base import Part
from pipeline.runs.messages import duration

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Time between two lines, in seconds."""


class Pace:
    """The speed of a part, from the count at which it began or was resumed."""

    def __init__(self, count: int) -> None:
        self._count, self._time = count, time.perf_counter()

    def rate(self, count: int) -> float:
        """Edits or steps per second since then."""
        return (count - self._count) / max(time.perf_counter() - self._time, 1e-9)

    def text(self, part: Part, count: int) -> str:
        """For example `1.3 edits/s, `; empty before the first."""
        return f"{self.rate(count):.2g} {part.unit}/s, " if count > self._count else ""


class ProgressLines:
    """Logs the present phase, or the progress of the present part, every `seconds` inside this context."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._line, self._ratio = seconds, "", 1.0
        self._paces: dict[int, Pace] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)

    def __enter__(self) -> Self:
        """Begin to log."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()

    def report(self, phase: Phase) -> None:
        """The present phase."""
        self._line = str(phase)

    def show(self, part: Part, count: int, row: Mapping[str, float]) -> None:
        """The present part and the progress in it."""
        pace = self._paces.setdefault(part.index, Pace(count))
        self._ratio = row.get(NORM_RATIO, self._ratio)
        rate = pace.rate(count)
        left = f", about {duration((part.total - count) / rate)} left" if rate and count < part.total else ""
        self._line = (
            f"{part.name}: {count} of {part.total} {part.unit}, {pace.text(part, count)}"
            f"norm ratio {self._ratio:.4g}{left}"
        )

    def _repeat(self) -> None:
        while not self._ended.wait(self._seconds):
            if line := self._line:
                log.info("%s", line)
