"""One run: load → prepare → measure → for each step: change the model, measure, record → finish."""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.signatures import Alarm, Judge, OnAlarm
from analysis.stage import Measurement, Observation, Reference, Stage
from editors.model.loading import Checkpoint
from editors.model.model import Model
from pipeline.data import FactSource
from pipeline.interventions import Change, Intervention, Plan
from pipeline.rundir import Config, RunDir
from pipeline.trackers import Jsonl, Many, Rows, Tracker, tracking

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
    judges: Sequence[Judge] = ()
    tracker: Tracker


def execute(config: Config, parts: Parts, run: RunDir) -> float | None:
    """Compute the run in its open folder and return its objective."""
    facts = parts.data.load()
    plan = parts.intervention.plan(facts)
    model = parts.model.load()
    log.info("%s: %d blocks on %s; %d edits", model.name, model.depth, model.device, len(plan.stream))
    tracker = Many(trackers=[Jsonl(run=run), parts.tracker])
    with tracking(tracker, config, run.info):
        watch = Watch(parts, tracker, plan, run)
        parts.intervention.prepare(model, plan)
        watch.begin(model)
        with _progress(len(plan.stream)) as advance, watch:
            changes = iter(()) if watch.stopped else parts.intervention.steps(model, plan)
            for change in _timed(changes):
                advance(len(change.facts), watch.look(model, change))
                if watch.stopped:
                    break
        if watch.stopped:
            log.warning("stopped by an alarm after %d of %d edits", watch.edits, len(plan.stream))
        objective = watch.last.get(OBJECTIVE)
        alarms = [asdict(alarm) for alarm in watch.alarms]
        statistics = parts.intervention.statistics
        run.finish(objective=objective, statistics=statistics, alarms=alarms, stopped=watch.stopped)
        tracker.pictures(lambda: _drawn(run))
    return objective


class Watch:
    """Runs the stages that are due after each step, hands their numbers on, and looks for alarms.

    As a context it gives the tracker what was told of each edit when the sequence ends, also by an error.
    """

    def __init__(self, parts: Parts, tracker: Tracker, plan: Plan, run: RunDir) -> None:
        self.parts, self.tracker, self.plan, self.run = parts, tracker, plan, run
        self.edits = 0
        self.last: dict[str, float] = {}
        self.alarms: list[Alarm] = []
        self.stopped = False
        self._details: list[dict[str, object]] = []

    def __enter__(self) -> Self:
        """Nothing yet: `begin` came before."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hand on the details."""
        self.tracker.table("edits", self._details)

    def begin(self, model: Model) -> None:
        """Prepare the stages on the unedited model, then measure it."""
        self.reference = Reference(model)
        row: dict[str, float] = {}
        for stage in self.parts.stages:
            begun = time.perf_counter()
            stage.prepare(model, self.plan.stream)
            row[f"time/{stage.name}_prepare/seconds"] = time.perf_counter() - begun
        for judge in self.parts.judges:
            judge.begin()
        self._log(model, self._observe(None, 0), row)

    def look(self, model: Model, change: Change) -> Mapping[str, float]:
        """Measure, log, and return the numbers of this moment."""
        before = self.edits
        self.edits += len(change.facts)
        self._details += _told(change, before)
        return self._log(model, self._observe(change, before), _cost(change))

    def _log(self, model: Model, seen: Observation, row: dict[str, float]) -> dict[str, float]:
        tables: dict[str, Rows] = {}
        for stage in self.parts.stages:
            if stage.cadence.due(seen.before, seen.count, seen.total):
                row |= self._measure(stage, model, seen, tables)
        row |= self._judge(model, seen, row)
        if self.stopped:
            # what was added is told already; what belongs to the end is missing, and may alarm as well
            end = replace(seen, total=seen.count, before=seen.count, update={})
            for stage in self.parts.stages:
                row |= self._measure(stage, model, end, tables)
            row |= self._judge(model, end, row)
        for name, rows in tables.items():
            self.tracker.table(name, rows)
        self.tracker.log(self.edits, row)
        self.last |= row
        return row

    def _observe(self, change: Change | None, before: int) -> Observation:
        stream = self.plan.stream[: self.edits]
        subjects = {fact.subject for fact in stream}
        others = [fact for fact in self.plan.others if not stream or fact.subject in subjects]
        return Observation(
            count=self.edits,
            before=before,
            total=len(self.plan.stream),
            latest=change.facts if change else (),
            seen=stream,
            others=others,
            untouched=self.plan.untouched,
            update=change.update if change else {},
            edited=self.parts.intervention.edited,
            reference=self.reference,
        )

    def _measure(
        self, stage: Stage, model: Model, seen: Observation, tables: dict[str, Rows]
    ) -> dict[str, float]:
        """The stage's numbers; its tables take the place of those that it gave at this moment before."""
        begun = time.perf_counter()
        found: Measurement = stage.measure(model, seen)
        for name, table in found.items():
            if isinstance(table, pd.DataFrame):
                tables[name] = [
                    {str(key): value for key, value in row.items()} for row in table.to_dict("records")
                ]
        numbers = {key: float(value) for key, value in found.items() if not isinstance(value, pd.DataFrame)}
        return numbers | {f"time/{stage.name}/seconds": time.perf_counter() - begun}

    def _judge(self, model: Model, seen: Observation, row: Mapping[str, float]) -> dict[str, float]:
        """The alarms of this moment, told to people and acted on."""
        found: dict[str, float] = {}
        for judge in self.parts.judges:
            for alarm in judge.judge(seen, row):
                log.warning("alarm: %s", alarm.sentence)
                self.tracker.alert(alarm.signature, alarm.sentence)
                self.alarms.append(alarm)
                found[f"alarm/{alarm.signature}/at"] = alarm.count
                self._act(judge.on_alarm, model, seen)
        return found

    def _act(self, on_alarm: OnAlarm, model: Model, seen: Observation) -> None:
        if on_alarm == "stop" and not seen.is_last:
            self.stopped = True
        if on_alarm == "checkpoint":
            weights = {str(site): matrix for site, matrix in model.snapshot(seen.edited).items()}
            log.warning("the edited matrices are in %s", self.run.checkpoint(seen.count, weights))


def _timed(changes: Iterator[Change]) -> Iterator[Change]:
    """Each change with the seconds that the whole step took."""
    while True:
        begun = time.perf_counter()
        change = next(changes, None)
        if change is None:
            return
        yield replace(change, seconds={**change.seconds, "step": time.perf_counter() - begun})


def _drawn(run: RunDir) -> Mapping[str, Path]:
    """The figures of this run alone, by name."""
    from analysis.report import run_figures  # here: whoever wants no figures need not wait for a second

    return run_figures(run.folder, run.folder / "figures")


def _told(change: Change, before: int) -> list[dict[str, object]]:
    """A row a fact: its place in the sequence, its id, and what the editor tells of it."""
    rows: list[dict[str, object]] = []
    for i, fact in enumerate(change.facts):
        told = {name: values[i] for name, values in change.details.items()}
        rows.append({"edit": before + i + 1, "id": fact.id, **told})
    return rows


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
