"""What a search makes large or small: numbers that are computed from what a finished run has found.

Light, so that a run which is done already answers without torch. An objective belongs to no run: a finished
one is asked again with whatever objective is chosen now.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol

from hydra.utils import instantiate

from analysis.metrics import ACCURACY, SCORE, stage_of
from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.config.fingerprint import Config
from pipeline.config.targets import plugins_of
from pipeline.config.validation import node_problems

log = logging.getLogger(__name__)

Direction = Literal["maximize", "minimize"]
Value = float | list[float | None] | None
"""Of one objective, or of several in their order; null where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run has found when it is over."""

    last: Mapping[str, float]
    """The last value of every metric."""
    unedited: Mapping[str, float]
    """Its value before the first change, of those that were measured then."""
    edits: int
    alarms: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]]
    """Of the run: unit and count of each."""


class Objective(Protocol):
    """A number about a run, and which way is better."""

    @property
    def direction(self) -> Direction:
        """Whether more or less is better."""
        ...

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """Why a run with this `stage` group cannot have it, in words that name the way out."""
        ...

    def value(self, found: Findings) -> float | None:
        """The number; None where something that it reads was not measured."""
        ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """The last value of a metric of docs/metrics.md."""

    metric: str
    direction: Direction = "maximize"

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """A metric whose stage is not there."""
        return _unmeasured([self.metric], stages)

    def value(self, found: Findings) -> float | None:
        """As it was measured last."""
        return found.last.get(self.metric)


@dataclass(frozen=True, kw_only=True)
class EditsBeforeAlarm:
    """Edits made when the first alarm fired, all edits where none did.

    An alarm fires when something is measured, so that the cadence of what it reads is the resolution.
    """

    signatures: Sequence[str] = ()
    """Alarms that count, all where none is named."""
    direction: Direction = field(default="maximize", init=False)

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """Alarms that no judge would give."""
        if "signatures" not in stages:
            return f"alarms are not looked for: add signatures to {_as_list(stages)}"
        off = [name for name in self.signatures if stages["signatures"].get(name) is None]
        return f"stage.signatures has no threshold for {', '.join(off)}" if off else None

    def value(self, found: Findings) -> float | None:
        """Counted over all parts of the run that edit."""
        fired = [
            _edits_at(alarm, found.parts)
            for alarm in found.alarms
            if not self.signatures or alarm["signature"] in self.signatures
        ]
        return float(min(fired, default=found.edits))


@dataclass(frozen=True, kw_only=True)
class ScoreMinusDownstreamLoss:
    """score − weight · (unedited downstream − downstream), the two last values and the one at the start."""

    score: str = SCORE
    downstream: str = ACCURACY
    weight: float = 1.0
    """How many points of the score a point of downstream accuracy is worth."""
    direction: Direction = field(default="maximize", init=False)

    def lacks(self, stages: Mapping[str, Any]) -> str | None:
        """A metric whose stage is not there."""
        return _unmeasured([self.score, self.downstream], stages)

    def value(self, found: Findings) -> float | None:
        """A gain in downstream accuracy counts as well."""
        score, end = found.last.get(self.score), found.last.get(self.downstream)
        start = found.unedited.get(self.downstream)
        if score is None or start is None or end is None:
            return None
        return score - self.weight * (start - end)


def chosen(config: Config) -> dict[str, Objective]:
    """The objectives of a resolved configuration, by name.

    Raises:
        ConfigError: with all that is wrong with them, one a line.
    """
    nodes: Mapping[str, Any] = config.get("objective") or {}  # pyright: ignore[reportAssignmentType]
    problems = list(node_problems("objective", nodes, plugins_of(config)))
    if problems:
        raise ConfigError("\n".join(problems))
    return {name: instantiate(node, _convert_="all") for name, node in nodes.items()}


def lacking(config: Config) -> list[str]:
    """A sentence for each objective that the run of a resolved configuration cannot have."""
    stages: Mapping[str, Any] = config.get("stage") or {}  # pyright: ignore[reportAssignmentType]
    found = {name: objective.lacks(stages) for name, objective in chosen(config).items()}
    return [f"objective={name}: {reason}" for name, reason in found.items() if reason]


def objective_of(config: Config, folder: Path, summary: Mapping[str, Any] | None = None) -> Value:
    """The value of the run in `folder`: a number for one objective, a list for several, null for none.

    `summary` is what the run found; that of a finished run is read. Says what cannot be known, and why.
    """
    told = RunFolder(folder).final_summary() if summary is None else summary
    found = Findings(
        last=told["metrics"],
        unedited=_unedited(RunFolder(folder)),
        edits=told.get("edits", 0),
        alarms=told.get("alarms", ()),
        parts=told.get("parts", ()),
    )
    stages: Mapping[str, Any] = config.get("stage") or {}  # pyright: ignore[reportAssignmentType]
    values = [_value(name, objective, found, stages) for name, objective in chosen(config).items()]
    return values if len(values) > 1 else next(iter(values), None)


def _value(name: str, objective: Objective, found: Findings, stages: Mapping[str, Any]) -> float | None:
    reason = objective.lacks(stages)
    value = None if reason else objective.value(found)
    if value is None:
        reason = reason or f"{objective} reads what was not measured; docs/metrics.md has the keys"
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
    """The numbers of the rows before the first edit or optimiser step."""
    before = takewhile(lambda row: not (row.get("edits") or row.get("steps")), run.rows()[0])
    return {key: value for row in before for key, value in row.items() if "/" in key}
