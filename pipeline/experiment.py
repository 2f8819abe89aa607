"""One run: load → prepare → measure → for each step: change the model, measure, record → finish."""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.stage import Measurement, Observation, Reference, Stage
from editors.model.loading import Checkpoint
from editors.model.model import Model
from pipeline.data import FactSource
from pipeline.interventions import Change, Intervention, Plan
from pipeline.rundir import Config, RunDir
from pipeline.trackers import Jsonl, Many, Tracker, tracking

log = logging.getLogger(__name__)

OBJECTIVE = "edit/score/seen"
"""What a run returns to a sweeper: the harmonic mean of ES, PS and NS over all edits at the end."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a run is made of, built from its configuration."""

    model: Checkpoint
    data: FactSource
    intervention: Intervention
    stages: Sequence[Stage]
    tracker: Tracker


def execute(config: Config, parts: Parts, run: RunDir) -> float | None:
    """Compute the run in its open folder and return its objective."""
    facts = parts.data.load()
    plan = parts.intervention.plan(facts)
    model = parts.model.load()
    log.info("%s: %d blocks on %s; %d edits", model.name, model.depth, model.device, len(plan.stream))
    tracker = Many(trackers=[Jsonl(run=run), parts.tracker])
    with tracking(tracker, config, run.info):
        watch = Watch(parts.stages, tracker, plan, parts.intervention, Reference(model))
        parts.intervention.prepare(model, plan)
        for stage in parts.stages:
            stage.prepare(model, plan.stream)
        watch.look(model, None)
        with _progress(len(plan.stream)) as advance:
            for change in _timed(parts.intervention.steps(model, plan)):
                advance(len(change.facts), watch.look(model, change))
    objective = watch.last.get(OBJECTIVE)
    run.finish(objective=objective, statistics=parts.intervention.statistics)
    return objective


class Watch:
    """Runs the stages that are due after each step and hands their numbers to the tracker."""

    def __init__(
        self,
        stages: Sequence[Stage],
        tracker: Tracker,
        plan: Plan,
        intervention: Intervention,
        reference: Reference,
    ) -> None:
        self.stages, self.tracker, self.plan = stages, tracker, plan
        self.edited, self.reference = intervention.edited, reference
        self.edits = 0
        self.last: dict[str, float] = {}

    def look(self, model: Model, change: Change | None) -> Mapping[str, float]:
        """Measure, log, and return the numbers of this moment."""
        before = self.edits
        self.edits += len(change.facts) if change else 0
        seen = self._observe(change, before)
        row = _cost(change) if change else {}
        for stage in self.stages:
            if stage.cadence.due(before, self.edits, seen.total):
                row |= self._measure(stage, model, seen)
        self.tracker.log(self.edits, row)
        self.last |= row
        return row

    def _observe(self, change: Change | None, before: int) -> Observation:
        stream = self.plan.stream[: self.edits]
        subjects = {fact.subject for fact in stream}
        others = [fact for fact in self.plan.others if not stream or fact.subject in subjects]
        return Observation(
            edits=self.edits,
            before=before,
            total=len(self.plan.stream),
            latest=change.facts if change else (),
            seen=stream,
            others=others,
            untouched=self.plan.untouched,
            update=change.update if change else {},
            edited=self.edited,
            reference=self.reference,
        )

    def _measure(self, stage: Stage, model: Model, seen: Observation) -> dict[str, float]:
        begun = time.perf_counter()
        found: Measurement = stage.measure(model, seen)
        for name, table in found.items():
            if isinstance(table, pd.DataFrame):
                rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
                self.tracker.table(name, rows)
        numbers = {key: float(value) for key, value in found.items() if not isinstance(value, pd.DataFrame)}
        return numbers | {f"time/{stage.name}/seconds": time.perf_counter() - begun}


def _timed(changes: Iterator[Change]) -> Iterator[Change]:
    """Each change with the seconds that the whole step took."""
    while True:
        begun = time.perf_counter()
        change = next(changes, None)
        if change is None:
            return
        yield replace(change, seconds={**change.seconds, "step": time.perf_counter() - begun})


def _cost(change: Change) -> dict[str, float]:
    """What a step took and what the editor reports of it."""
    # Linux counts in KiB, macOS in bytes
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return {
        **{f"time/{phase}/seconds": value for phase, value in change.seconds.items()},
        **{f"edit/{quantity}/mean": value for quantity, value in change.diagnostics.items()},
        "memory/peak_rss/gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A bar with edits per second and the norm ratio; silent where standard error is no terminal."""
    console = Console(stderr=True)
    columns = [
        TextColumn("editing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}  norm ratio {task.fields[ratio]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("editing", total=total, rate="", ratio="1.00")
        begun = time.perf_counter()

        def advance(edits: int, row: Mapping[str, float]) -> None:
            done = bar.tasks[0].completed + edits
            rate = f"{done / (time.perf_counter() - begun):.1f} edits/s"
            ratio = row.get("norm/frobenius_ratio/edited")
            shown = bar.tasks[0].fields["ratio"] if ratio is None else f"{ratio:.3g}"
            bar.update(task, advance=edits, rate=rate, ratio=shown)

        yield advance
