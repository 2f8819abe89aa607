"""The progress of a run on a terminal: the present phase, and one bar per part of the run."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from analysis.metrics import NORM_RATIO
from editors.phases import Phase
from pipeline.interventions.base import Part
from pipeline.progress.terminal import logged_above
from pipeline.tracking.progress_lines import Pace


class ProgressBars:
    """A bar for the present phase and one per part that has started, shown inside this context."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._parts: dict[int, tuple[TaskID, Pace]] = {}
        self._ratio = 1.0
        self._phase: tuple[str, TaskID] | None = None
        self._shown = ExitStack()

    def __enter__(self) -> Self:
        """Show the bars."""
        self._shown.enter_context(logged_above(self._progress.console))
        self._shown.enter_context(self._progress)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop updating; the bars of the parts stay on the screen."""
        self._end_phase()
        self._shown.close()

    def report(self, phase: Phase) -> None:
        """Show a phase instead of the one before; its bar has no end if nobody counts."""
        if self._phase is None or self._phase[0] != phase.name:
            self._end_phase()
            self._phase = phase.name, self._progress.add_task(phase.name, total=None, text="")
        text = f"{phase.count:,}/{phase.total:,} {phase.unit}" if phase.total else ""
        self._progress.update(self._phase[1], completed=phase.count, total=phase.total or None, text=text)

    def show(self, part: Part, count: int, row: Mapping[str, float]) -> None:
        """Move the bar of a part to `count`, and end the phase; the first call for a part adds its bar."""
        self._end_phase()
        if part.index not in self._parts:
            task = self._progress.add_task(part.name, total=part.total, completed=count, text="")
            self._parts[part.index] = task, Pace(count)
        task, pace = self._parts[part.index]
        self._ratio = row.get(NORM_RATIO, self._ratio)
        text = f"{count}/{part.total} {part.unit}  {pace.text(part, count)}norm ratio {self._ratio:.4g}"
        self._progress.update(task, completed=count, text=text)

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._progress.remove_task(self._phase[1])
            self._phase = None
