"""Trackers: places that receive the numbers of a run while they are measured."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from analysis.units import Unit
from pipeline.config.fingerprint import Config
from pipeline.runs.folder import RunInfo

log = logging.getLogger(__name__)

Status = Literal["done", "failed"]
Rows = Sequence[Mapping[str, object]]
Draw = Callable[[], Mapping[str, Path]]
"""Draws a run's figures and returns their files by name; called only by trackers that show figures."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """The place of a row of numbers in a run."""

    part: int = 0
    """Index of the part of the run."""
    unit: Unit = "edits"
    """The unit of the part's x-axis; the field of that name is the row's place on it."""
    step: int = 0
    """Changes of the model so far, in the whole run."""
    edits: int = 0
    """Facts edited so far."""
    steps: int = 0
    """Optimiser steps taken so far."""
    tokens: int = 0
    """Tokens trained on so far."""

    @property
    def count(self) -> int:
        """The place on the part's x-axis."""
        return self.edits if self.unit == "edits" else self.steps

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Position":
        """The position of a row of `metrics.jsonl`."""
        return cls(**{entry.name: row[entry.name] for entry in fields(cls) if entry.name in row})


class Tracker:
    """A place for the numbers of one run at a time; a subclass overrides the methods that it supports."""

    @property
    def id(self) -> str:
        """The run's name at this place; empty before `start` and if there is none."""
        return ""

    def start(self, config: Config, run: RunInfo) -> None:
        """Open the run."""

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Add the numbers measured at this position."""

    def replay_row(self, row: Mapping[str, Any]) -> None:
        """Add a row of `metrics.jsonl` that an interrupted attempt at this run had logged."""

    def table(self, name: str, rows: Rows) -> None:
        """Add rows of details, for example one per fact."""

    def alert(self, title: str, text: str) -> None:
        """Notify people of something that they should look at."""

    def pictures(self, draw: Draw) -> None:
        """Add the figures of the finished run."""

    def finish(self, status: Status) -> None:
        """Close the run; does nothing if none is open."""


@contextmanager
def tracking(tracker: Tracker, config: Config, run: RunInfo) -> Iterator[None]:
    """Open the tracker's run and close it at the end; on an exception, close it as failed and raise again."""
    try:
        tracker.start(config, run)
        yield
    except BaseException:
        try:
            tracker.finish("failed")
        except Exception as error:  # a tracker whose process was killed must not hide why the run ended
            log.warning("the tracker did not close: %s: %s", type(error).__name__, error)
        raise
    tracker.finish("done")


@dataclass(kw_only=True)
class TrackerList(Tracker):
    """Several trackers as one, called in order; none at all with an empty list."""

    trackers: Sequence[Tracker] = ()

    @property
    def id(self) -> str:
        """The ids of all, joined by commas."""
        return ",".join(tracker.id for tracker in self.trackers if tracker.id)

    def start(self, config: Config, run: RunInfo) -> None:
        """Open all."""
        self._each(lambda tracker: tracker.start(config, run))

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Log the row in all."""
        self._each(lambda tracker: tracker.log(position, metrics))

    def replay_row(self, row: Mapping[str, Any]) -> None:
        """Log the earlier row in all."""
        self._each(lambda tracker: tracker.replay_row(row))

    def table(self, name: str, rows: Rows) -> None:
        """Add the rows to the table of all."""
        self._each(lambda tracker: tracker.table(name, rows))

    def alert(self, title: str, text: str) -> None:
        """Send the alert through all."""
        self._each(lambda tracker: tracker.alert(title, text))

    def pictures(self, draw: Draw) -> None:
        """Offer the figures to all."""
        self._each(lambda tracker: tracker.pictures(draw))

    def finish(self, status: Status) -> None:
        """Close all, even if closing one raises."""
        with ExitStack() as stack:
            for tracker in self.trackers:
                stack.callback(tracker.finish, status)

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self.trackers:
            call(tracker)
