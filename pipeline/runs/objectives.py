"""Objectives of a search: numbers computed from the results of a finished run, to maximise or minimise.

Nothing here imports torch, so that the value of a finished run is computed at once. An objective is no part
of a run: the value of a finished run is recomputed for the objective of the current configuration.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol

from analysis.metrics import ACCURACY, SCORE, stage_of
from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.config.allowed_classes import plugins_of
from pipeline.config.fingerprint import Config
from pipeline.config.instances import instance
from pipeline.config.validation import node_problems
from pipeline.runs.layout import summary_of

log = logging.getLogger(__name__)

Direction = Literal["maximize", "minimize"]
Value = float | list[float | None] | None
"""The value of one objective, or those of several in their order; null if it is not known."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of a run at its end."""

    last: Mapping[str, float]
    """The last value of every metric."""
    unedited: Mapping[str, float]
    """The value of every metric that was measured before the first change."""
    edits: int
    alarms: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]]
    """Unit and count of each part of the run."""


class Objective(Protocol):
    """A number computed from a run, and whether more or less of it is better."""

    @property
    def direction(self) -> Direction:
        """Whether more or less is better."""
        ...

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """Why it cannot be computed for a run with this `stage` group, and how to change that; else None."""
        ...

    def value(self, findings: Findings) -> float | None:
        """The number; None if a metric that it reads was not measured."""
        ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """The last value of a metric of docs/metrics.md."""

    metric: str
    direction: Direction = "maximize"

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """A sentence if the stage that measures the metric is missing."""
        return _unmeasured([self.metric], stages)

    def value(self, findings: Findings) -> float | None:
        """The last value of the metric."""
        return findings.last.get(self.metric)


@dataclass(frozen=True, kw_only=True)
class EditsBeforeAlarm:
    """Number of edits when the first alarm fired; all edits of the run if none fired.

    Alarms fire at measurements: the resolution is the cadence of the stages whose metrics they read.
    """

    signatures: Sequence[str] = ()
    """Names of the alarms that count; all alarms if empty."""
    direction: Direction = field(default="maximize", init=False)

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """A sentence if alarms are not computed, or one of `signatures` has no threshold."""
        if "signatures" not in stages:
            return f"alarms are not computed: add signatures to {_as_list(stages)}"
        off = [name for name in self.signatures if stages["signatures"].get(name) is None]
        return f"stage.signatures has no threshold for {', '.join(off)}" if off else None

    def value(self, findings: Findings) -> float | None:
        """The number of edits, counted over all parts of the run that edit."""
        fired = [
            _edits_at(alarm, findings.parts)
            for alarm in findings.alarms
            if not self.signatures or alarm["signature"] in self.signatures
        ]
        return float(min(fired, default=findings.edits))


@dataclass(frozen=True, kw_only=True)
class ScoreMinusDownstreamLoss:
    """score − weight · (unedited downstream − downstream); score and downstream are the last values."""

    score: str = SCORE
    downstream: str = ACCURACY
    weight: float = 1.0
    """Points of the score that one point of downstream accuracy is worth."""
    direction: Direction = field(default="maximize", init=False)

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """A sentence if a stage that measures one of the metrics is missing."""
        return _unmeasured([self.score, self.downstream], stages)

    def value(self, findings: Findings) -> float | None:
        """The difference; a gain in downstream accuracy raises it."""
        score, end = findings.last.get(self.score), findings.last.get(self.downstream)
        start = findings.unedited.get(self.downstream)
        if score is None or start is None or end is None:
            return None
        return score - self.weight * (start - end)


def objectives_of(config: Config) -> dict[str, Objective]:
    """The objectives of a resolved configuration, by name.

    Raises:
        ConfigError: with all of their problems, one per line.
    """
    nodes: Mapping[str, Any] = config.get("objective") or {}  # pyright: ignore[reportAssignmentType]
    problems = list(node_problems("objective", nodes, plugins_of(config), hint=Objective))
    if problems:
        raise ConfigError("\n".join(problems))
    return {name: instance(node) for name, node in nodes.items()}


def objective_problems(config: Config) -> list[str]:
    """One sentence per objective that cannot be computed for the run of a resolved configuration."""
    stages: Mapping[str, Any] = config.get("stage") or {}  # pyright: ignore[reportAssignmentType]
    reasons = {name: objective.lacks(stages) for name, objective in objectives_of(config).items()}
    return [f"objective={name}: {reason}" for name, reason in reasons.items() if reason]


def objective_of(config: Config, folder: Path, summary: Mapping[str, Any] | None = None) -> Value:
    """The value of the run in `folder`: a number for one objective, a list for several, null for none.

    `summary` is that of the run, read from the folder by default. Objectives without a value are logged.
    """
    if summary is None:
        summary = summary_of(folder)
    findings = Findings(
        last=summary.get("metrics", {}),
        unedited=_unedited(RunFolder(folder)),
        edits=summary.get("edits", 0),
        alarms=summary.get("alarms", ()),
        parts=summary.get("parts", ()),
    )
    stages: Mapping[str, Any] = config.get("stage") or {}  # pyright: ignore[reportAssignmentType]
    values = [_value(name, objective, findings, stages) for name, objective in objectives_of(config).items()]
    return values if len(values) > 1 else next(iter(values), None)


def _value(name: str, objective: Objective, findings: Findings, stages: Mapping[str, Any]) -> float | None:
    reason = objective.lacks(stages)
    value = None if reason else objective.value(findings)
    if value is None:
        reason = reason or f"{objective} reads a metric that was not measured; docs/metrics.md lists the keys"
        log.debug("objective=%s is not known: %s", name, reason)
    return value


def _unmeasured(metrics: Sequence[str], stages: Mapping[str, Any]) -> str | None:
    needed = {stage: metric for metric in metrics if (stage := stage_of(metric))}
    missing = {stage: metric for stage, metric in needed.items() if stage not in stages}
    if not missing:
        return None
    unknown, add = " and ".join(missing.values()), " and ".join(missing)
    return f"nothing measures {unknown}: add {add} to {_as_list(stages)}"


def _as_list(stages: Mapping[str, Any]) -> str:
    return f"stage=[{','.join(stages)}]"


def _edits_at(alarm: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> int:
    """Edits of all parts of the run when the alarm fired."""
    before = sum(part["count"] for part in parts[: alarm["part"]] if part["unit"] == "edits")
    return before + (alarm["count"] if alarm["unit"] == "edits" else 0)


def _unedited(run: RunFolder) -> dict[str, float]:
    """The metrics of the rows before the first edit or optimiser step."""
    before = takewhile(lambda row: not (row.get("edits") or row.get("steps")), run.rows()[0])
    return {key: value for row in before for key, value in row.items() if "/" in key}
