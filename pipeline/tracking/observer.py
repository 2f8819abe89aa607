"""Observes a model while it is changed: runs the due stages, logs their numbers, raises alarms."""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from analysis.results.outcome import outcome_of
from analysis.results.run_files import Outcome
from analysis.stages.base import Measurement, Observation, Stage
from analysis.stages.reference import Reference
from analysis.stages.signatures import Alarm, Judge, OnAlarm
from editors.data import Fact, Reader
from editors.models.model import Model
from editors.phases import Phase
from editors.updates import Site
from pipeline.checkpoints.stages import recall_memories, save_memories
from pipeline.interventions.base import Change, Part, Plan
from pipeline.runs.checkpoint_store import FOLDER, Saved
from pipeline.runs.folder import RunDir
from pipeline.runs.signals import Requests
from pipeline.tracking.base import Position, Rows, Tracker
from pipeline.tracking.display import Display

log = logging.getLogger(__name__)


class Observer:
    """The `StepObserver` of a process that measures.

    At the end of its context, also by an error, the tracker gets the tables of edits and alarms.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        judges: Sequence[Judge],
        tracker: Tracker,
        plan: Plan,
        reader: Callable[[Sequence[Fact]], Reader],
        run: RunDir,
        requests: Requests,
        display: Display,
    ) -> None:
        self.stages, self.judges, self.tracker, self.plan, self.run = stages, judges, tracker, plan, run
        self.reader, self.requests, self.display = reader, requests, display
        self.parts: dict[int, Part] = {}
        self.counts: dict[int, int] = {}
        self.last: dict[str, float] = {}
        self.alarms: list[Alarm] = []
        self.stopped = False
        self.edits = self.steps = self.tokens = self.rows = 0
        self._details: list[dict[str, object]] = []
        self._prepared: dict[str, float] = {}

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.run.folder

    @property
    def checkpoints(self) -> Path:
        """The folder of the first part's checkpoints."""
        return self.folder / FOLDER / "0"

    @property
    def resumed(self) -> Saved | None:
        """The checkpoint that the run resumes from, if any."""
        return self.run.saved

    @property
    def outcome(self) -> Outcome | None:
        """How many of the edits so far took; None if none was checked."""
        return outcome_of(self._details)

    def __enter__(self) -> Self:
        """Nothing to do yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Pass the tables to the tracker."""
        if self._details:
            self.tracker.table("edits", self._details)
        if self.alarms:
            self.tracker.table("alarms", [asdict(alarm) for alarm in self.alarms])

    def begin(self, model: Model) -> None:
        """Prepare the stages on the unedited model; resume the measurements of an interrupted run."""
        self.reference = Reference(model)
        for number, stage in enumerate(self.stages):
            self.report(_of_stages(f"preparing {stage.name}", number, len(self.stages)))
            begun = time.perf_counter()
            with _named(stage):
                stage.prepare(model, self.plan.stream)
            self._prepared[f"time/{stage.name}_prepare/seconds"] = time.perf_counter() - begun
        for judge in self.judges:
            judge.begin()
        if self.resumed is not None:
            self._resume(model, self.resumed)

    def due(self, part: Part, count: int) -> bool:
        """Whether a stage measures after the step that leads to `count`."""
        before = self.counts.get(part.index, 0)
        return any(stage.cadence.due(before, count, _end(part, count)) for stage in self.stages)

    def look(self, model: Model, part: Part, change: Change | None = None) -> bool:
        """Measure, log and judge; return whether to continue."""
        self.parts[part.index] = part
        before = self.counts.get(part.index, 0)
        row: dict[str, float] = {}
        if change is None:
            row, self._prepared = self._prepared, {}
        else:
            self._advance(part, change)
            row = _cost(change)
        observation = self._observe(part, before, change)
        self.display.show(part, observation.count, self._log(model, observation, row))
        self.run.report_progress(self._reached())
        return not self.stopped

    def report(self, phase: Phase) -> None:
        """Show a phase."""
        self.display.report(phase)

    def save(self, checkpoint: Path, pieces: Sequence[Path] = ()) -> None:
        """Complete a checkpoint with the progress of the run, the memory of its stages and its tables."""
        save_memories(self.stages, checkpoint)
        self.run.save(
            checkpoint,
            {
                "counts": self.counts,
                "parts": [_as_json(part) for part in self.parts.values()],
                "position": {name: getattr(self, name) for name in ("edits", "steps", "tokens", "rows")},
                "details": self._details,
            },
            pieces,
        )

    def summary(self) -> dict[str, object]:
        """The progress of each part, the edits that took and the alarms, for `summary.json`."""
        alarms = [asdict(alarm) for alarm in self.alarms]
        counts = {"edits": self.edits, "steps": self.steps, "tokens": self.tokens}
        outcome = self.outcome
        took = {} if outcome is None else {"outcome": outcome}
        return {**counts, **took, "parts": self._reached(), "alarms": alarms, "stopped": self.stopped}

    def _reached(self) -> list[dict[str, object]]:
        return [
            {"name": part.name, "unit": part.unit, "total": part.total, "count": self.counts.get(index, 0)}
            for index, part in sorted(self.parts.items())
        ]

    def _advance(self, part: Part, change: Change) -> None:
        done = {"edits": len(change.facts), "steps": change.steps}
        self._details += _detail_rows(change, self.edits)
        self.counts[part.index] = self.counts.get(part.index, 0) + done[part.unit]
        self.edits += done["edits"]
        self.steps += done["steps"]
        self.tokens += change.tokens
        self.rows += 1

    def _log(self, model: Model, observation: Observation, row: dict[str, float]) -> dict[str, float]:
        tables: dict[str, Rows] = {}
        due = [
            stage
            for stage in self.stages
            if stage.cadence.due(observation.before, observation.count, observation.total)
        ]
        for number, stage in enumerate(due):
            if observation.count in (0, observation.total):  # in between measurements are many and short
                self.report(_of_stages(f"measuring {stage.name}", number, len(due)))
            row |= self._measure(stage, model, observation, tables)
        row |= self._judge(model, observation, row)
        if self.stopped and not observation.is_last:
            # the update is measured already; the measurements of the end are missing, and may alarm as well
            end = replace(observation, total=observation.count, before=observation.count, update={})
            for stage in self.stages:
                row |= self._measure(stage, model, end, tables)
            row |= self._judge(model, end, row)
        for name, rows in tables.items():
            self.tracker.table(name, rows)
        self.tracker.log(self._position(observation), row)
        self.last |= row
        return row

    def _position(self, observation: Observation) -> Position:
        return Position(
            part=observation.part,
            unit=observation.unit,
            step=self.rows,
            edits=self.edits if observation.unit == "steps" else observation.count,
            steps=self.steps if observation.unit == "edits" else observation.count,
            tokens=self.tokens,
        )

    def _observe(self, part: Part, before: int, change: Change | None) -> Observation:
        stream = self.plan.stream[: self.edits]
        subjects = {fact.subject for fact in stream}
        others = [fact for fact in self.plan.others if not stream or fact.subject in subjects]
        count = self.counts.get(part.index, 0)
        return Observation(
            count=count,
            before=before,
            total=_end(part, count),
            unit=part.unit,
            part=part.index,
            changes=self.rows,
            latest=change.facts if change else (),
            seen=stream,
            others=others,
            untouched=self.plan.untouched,
            update=change.update if change else {},
            edited=part.edited,
            reference=self.reference,
            reader=self.reader(stream),
        )

    def _measure(
        self, stage: Stage, model: Model, observation: Observation, tables: dict[str, Rows]
    ) -> dict[str, float]:
        """The stage's numbers; its tables replace earlier ones of this moment."""
        begun = time.perf_counter()
        with _named(stage):
            measurement: Measurement = stage.measure(model, observation)
        for name, table in measurement.items():
            if isinstance(table, pd.DataFrame):
                tables[name] = [
                    {str(key): value for key, value in row.items()} for row in table.to_dict("records")
                ]
        numbers = {
            key: float(value) for key, value in measurement.items() if not isinstance(value, pd.DataFrame)
        }
        return numbers | {f"time/{stage.name}/seconds": time.perf_counter() - begun}

    def _judge(self, model: Model, observation: Observation, row: Mapping[str, float]) -> dict[str, float]:
        """The alarms of this moment as metrics; they are logged, sent by the tracker and acted on."""
        alarms: dict[str, float] = {}
        for judge in self.judges:
            for alarm in judge.judge(observation, row):
                log.warning("alarm: %s", alarm.sentence)
                self.tracker.alert(alarm.signature, alarm.sentence)
                self.alarms.append(alarm)
                alarms[f"alarm/{alarm.signature}/at"] = alarm.count
                self._act(judge.on_alarm, model, observation)
        return alarms

    def _act(self, on_alarm: OnAlarm, model: Model, observation: Observation) -> None:
        if on_alarm == "stop" and observation.count < self.parts[observation.part].total:
            self.stopped = True
        if on_alarm == "checkpoint":
            weights = {str(site): matrix for site, matrix in model.snapshot(observation.edited).items()}
            name = f"{observation.unit}-{observation.count:06d}"
            log.warning("the edited matrices are in %s", self.run.checkpoint(name, weights))

    def _resume(self, model: Model, saved: Saved) -> None:
        """Continue where the checkpoint was saved: judges read every row again, without alerts."""
        state = saved.state
        self.parts = {part["index"]: _part(part) for part in state["parts"]}
        self.counts = {int(index): count for index, count in state["counts"].items()}
        for name, value in state["position"].items():
            setattr(self, name, value)
        self._details = list(state["details"])
        recall_memories(self.stages, model, saved.checkpoint)
        self._prepared = {}
        counted: dict[int, int] = {}
        for row in self.run.rows():
            self._judge_again(row, counted)
            self.last |= _numbers(row)

    def _judge_again(self, row: Mapping[str, Any], counted: dict[int, int]) -> None:
        position = Position.of(row)
        part = self.parts[position.part]
        before = counted.get(part.index, 0)
        counted[part.index] = position.count
        observation = Observation(
            count=position.count, before=before, total=_end(part, position.count), unit=part.unit,
            part=part.index, edited=part.edited, reference=self.reference,
        )  # fmt: skip
        for judge in self.judges:
            self.alarms += judge.judge(observation, _numbers(row))


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Note on an error in which stage it occurred."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in stage {stage.name}")
        raise


def _end(part: Part, count: int) -> int:
    """The count at which a part ends for its stages: at once, if every measurement is complete."""
    return count if part.complete else part.total


def _of_stages(name: str, number: int, stages: int) -> Phase:
    return Phase(name=name, count=number, total=stages, unit="stages")


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row, without its position."""
    return {key: value for key, value in row.items() if "/" in key}


def _part(fields: Mapping[str, Any]) -> Part:
    """The inverse of `_as_json`."""
    return Part(**{**fields, "edited": [Site.parse(site) for site in fields["edited"]]})


def _as_json(part: Part) -> dict[str, object]:
    return {**vars(part), "edited": [str(site) for site in part.edited]}


def _detail_rows(change: Change, before: int) -> list[dict[str, object]]:
    """One row per fact: its place in the sequence, its id and the editor's diagnostics."""
    rows: list[dict[str, object]] = []
    for i, fact in enumerate(change.facts):
        details = {name: values[i] for name, values in change.details.items()}
        rows.append({"edit": before + i + 1, "id": fact.id, **details})
    return rows


def _cost(change: Change) -> dict[str, float]:
    """The time and memory that a step took, and the numbers that it reports."""
    # Linux counts in KiB, macOS in bytes
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return {
        **{f"time/{phase}/seconds": value for phase, value in change.seconds.items()},
        **change.numbers,
        "memory/peak_rss/gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
