"""The state of every run of an experiment, from the folders alone."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis.results.outcome import in_words
from analysis.results.run_files import one_line
from analysis.results.run_folder import RunFolder, runs_in
from editors.errors import DataError
from pipeline.runs import messages
from pipeline.runs.heartbeat import is_gone, read_progress
from pipeline.sweeps import plan

State = Literal["running", "failed", "interrupted", "waiting", "done"]
_BEAT = frozenset({"host", "pid", "beat", "parts", "started"})
"""Fields of a heartbeat."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run now."""

    run: str
    overrides: tuple[str, ...]
    state: State
    message: str = ""
    """Progress of the run, or why it failed."""
    share: float = 0.0
    """Completed share of the run, 0 to 1."""
    seconds: float | None = None
    """Seconds that the run took, or has taken so far."""

    @property
    def left(self) -> float | None:
        """Seconds that a running one still takes if it continues at this rate."""
        if self.state != "running" or not self.share or self.seconds is None:
            return None
        return self.seconds * (1 - self.share) / self.share


def run_states(experiment: Path) -> list[RunState]:
    """The state of every run of an experiment, planned or begun; for the folder of a run, its state alone.

    Raises:
        DataError: if the folder holds none.
    """
    run = RunFolder(experiment)
    planned = {job.run: job.overrides for job in plan.read(experiment.parent if run.is_run else experiment)}
    if run.is_run:
        return [run_state(run, planned.get(run.path.name))]
    names = list(dict.fromkeys([*planned, *(run.path.name for run in runs_in(experiment))]))
    if not names:
        raise DataError(
            f"{experiment} holds no run and no plan of one: name the folder of an experiment, such as "
            "outputs/quickstart"
        )
    return [run_state(RunFolder(experiment / name), planned.get(name)) for name in names]


def seconds_left(runs: Sequence[RunState]) -> float | None:
    """Seconds until all runs are done, with as many at a time as now; None if unknown."""
    running = [run for run in runs if run.state == "running"]
    durations = [run.seconds for run in runs if run.state == "done" and run.seconds is not None]
    durations += [
        run.seconds + run.left for run in running if run.seconds is not None and run.left is not None
    ]
    if not running or not durations:
        return None
    mean = sum(durations) / len(durations)
    ahead = [mean if run.left is None else run.left for run in running]
    waiting = mean * sum(run.state == "waiting" for run in runs)
    return max(max(ahead), (sum(ahead) + waiting) / len(running))


def run_state(folder: RunFolder, planned: tuple[str, ...] | None = None) -> RunState:
    """The state of the run in a folder; its overrides are the planned ones, or those that it recorded."""
    overrides = tuple(map(one_line, _overrides(folder) if planned is None else planned))
    name, state = folder.name, folder.state
    if state == "done":
        try:
            summary = folder.summary()
            seconds = summary.get("seconds")
            message = in_words(summary["outcome"]) if "outcome" in summary else ""
        except DataError as error:
            seconds, message = None, str(error).removeprefix(f"{folder.path}/")
        return RunState(
            run=name, overrides=overrides, state="done", message=message, share=1.0, seconds=seconds
        )
    if state == "failed":
        return RunState(run=name, overrides=overrides, state="failed", message=folder.failure)
    beat = read_progress(folder.path)
    if beat is None or not _BEAT.issubset(beat):
        return RunState(run=name, overrides=overrides, state="waiting")
    gone = is_gone(beat)
    share, message, count = _progress(_counted(beat["parts"], folder.last_row()), beat.get("phase") or "")
    seconds = max(time.time() - beat["started"], 1e-9)
    if not gone and count:
        message += f", {count / seconds:.3g} per second"
    return RunState(
        run=name,
        overrides=overrides,
        state="interrupted" if gone else "running",
        message=message,
        share=share,
        seconds=None if gone else seconds,
    )


def _progress(parts: Sequence[Mapping[str, Any]], phase: str) -> tuple[float, str, int]:
    """The completed share, the progress of the current part in words, and the sum of all counts."""
    if not parts:
        return 0.0, one_line(phase) or "preparing", 0
    shares = [part["count"] / part["total"] if part["total"] else 1.0 for part in parts]
    part = next((part for part in parts if part["count"] < part["total"]), parts[-1])
    message = f"{part['count']} of {part['total']} {part['unit']}{f', {one_line(phase)}' if phase else ''}"
    return sum(shares) / len(shares), message, sum(part["count"] for part in parts)


def _counted(parts: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts with the count of the latest row, which is younger than the latest heartbeat."""
    index = row.get("part", 0)
    return [
        {**part, "count": max(part["count"], row.get(part["unit"], 0))} if i == index and row else part
        for i, part in enumerate(parts)
    ]


def _overrides(folder: RunFolder) -> tuple[str, ...]:
    try:
        return messages.publishable(folder.provenance().get("overrides", ()))
    except DataError:
        return ()  # the state of a run does not depend on them
