"""One progress bar per part of a run: progress, speed, growth of the norm."""

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from analysis.metrics import NORM_RATIO
from pipeline.interventions.base import Part


class ProgressBars:
    """One bar per part that has started, shown inside this context; hidden if stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}  norm ratio {task.fields[ratio]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[int, tuple[TaskID, float]] = {}

    def __enter__(self) -> Self:
        """Show the bars."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop updating; the bars stay on the screen."""
        self._progress.stop()

    def show(self, part: Part, count: int, row: Mapping[str, float]) -> None:
        """Move the bar of a part to `count`; the first call for a part adds its bar."""
        if part.index not in self._tasks:
            task = self._progress.add_task(
                part.name, total=part.total, completed=count, rate="", ratio="1.00", begun=count
            )
            self._tasks[part.index] = task, time.perf_counter()
            return
        task, begun = self._tasks[part.index]
        (bar,) = [each for each in self._progress.tasks if each.id == task]
        rate = (count - bar.fields["begun"]) / (time.perf_counter() - begun)
        ratio = row.get(NORM_RATIO)
        self._progress.update(
            task,
            completed=count,
            rate=f"{rate:.1f} {part.unit}/s",
            ratio=bar.fields["ratio"] if ratio is None else f"{ratio:.3g}",
        )
