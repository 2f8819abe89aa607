"""Where the progress of a run is shown: on a terminal, otherwise in the log, and to other processes."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

from editors.phases import Phase
from pipeline.interventions.base import Part
from pipeline.progress.terminal import terminal
from pipeline.runs.folder import RunDir
from pipeline.tracking.progress_bar import ProgressBars
from pipeline.tracking.progress_lines import ProgressLines


def progress_view() -> ProgressBars | ProgressLines:
    """Bars if standard error is a terminal, otherwise lines; a context."""
    console = terminal()
    return ProgressBars(console) if console.is_terminal else ProgressLines()


class Display:
    """Shows the progress of a run inside this context, and writes it into the run's folder for `status`."""

    def __init__(self, run: RunDir) -> None:
        self._run, self._view = run, progress_view()
        self._shown = ExitStack()

    def __enter__(self) -> Self:
        """Show the progress."""
        self._shown.enter_context(self._view)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop updating."""
        self._shown.close()

    def report(self, phase: Phase) -> None:
        """The present phase of the preparation, or of a long measurement."""
        self._view.report(phase)
        self._run.report_phase(phase)

    def show(self, part: Part, count: int, row: Mapping[str, float]) -> None:
        """The count that a part of the run has reached, with the numbers measured there."""
        self._view.show(part, count, row)
