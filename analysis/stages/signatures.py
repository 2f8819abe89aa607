"""The failure signatures of the papers, as alarms on the numbers of the other stages.

An edited model breaks in four ways that are visible before its scores are gone (arXiv 2502.19416,
2502.01636):

    norm_growth        an edited matrix outgrows its unedited norm
    activation_shift   late activations shrink or swell
    probe_collapse     probes trained on the unedited model no longer recognise the blocks
    ability_loss       a downstream score lies below its first value several times in a row

and one signature says that there is nothing to break yet:

    edits_fail         most of the latest edits did not take

Which of them comes first is a result in itself. A signature is a threshold on one metric. It is detected by a
`Judge`, which is no `Stage`: it reads the metrics of a moment after all stages have measured.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from scipy.special import betaincinv

from analysis.stages.base import Observation
from analysis.units import Unit, counted
from editors.errors import ConfigError

OnAlarm = Literal["continue", "stop", "checkpoint"]
_STANDARD_ERRORS = 2
"""Standard errors of a difference of scores that count as noise."""
_EDITS = 50
"""Edits over which the share of misses is taken."""
_DOUBT = 0.01
"""Probability of an alarm about failing edits although no more than the given share misses."""
SIGNATURES = ("norm_growth", "activation_shift", "probe_collapse", "ability_loss", "edits_fail")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A signature that fired, for the first time in its run."""

    signature: str
    count: int
    """Edits or optimiser steps of the part of the run."""
    unit: Unit = "edits"
    part: int = 0
    key: str
    """The metric that crossed its threshold."""
    value: float
    threshold: float
    sentence: str


class Judge(ABC):
    """Reads the numbers of all stages at one moment; never looks at the model."""

    on_alarm: OnAlarm
    """The reaction to an alarm."""

    def begin(self) -> None:  # noqa: B027
        """Forget an earlier run."""

    @abstractmethod
    def judge(self, observation: Observation, numbers: Mapping[str, float]) -> list[Alarm]:
        """The alarms of this moment; `numbers` are those measured now, by metric key."""


@dataclass(kw_only=True)
class Signatures(Judge):
    """Fires each signature at most once; a threshold of null switches it off.

    Key: `alarm/<signature>/at`, the count of the row in which it fired. A number that is NaN fires too.
    """

    name: str = "signatures"
    norm_growth: float | None = 2.0
    """Edited matrix: `norm/frobenius_ratio/<site>` above this."""
    activation_shift: float | None = 0.6
    """Late activations: `activation/norm_ratio/late` below this or above one over it."""
    probe_collapse: float | None = 0.7
    """Probes: `probe/accuracy/mean` below this, and `probe/change_high/mean` below 0 (more than noise)."""
    ability_loss: int | None = 3
    """Downstream: `downstream/mean/acc` below its first value by more than the margin, at this many
    measurements in a row."""
    ability_margin: float | None = None
    """The largest fall that does not count; None for two standard errors of the difference from the first
    value, 2 √(s₀² + s²) with s from `downstream/mean/stderr`. The same documents are scored every time, so
    that this errs on the wide side. Without standard errors nothing counts: give a margin."""
    edits_fail: float | None = 0.5
    """Edits: more than this share of the last 50 checked ones did not take, with 99 % confidence."""
    on_alarm: OnAlarm = "continue"
    """`stop` ends the run after a last measurement, `checkpoint` saves the edited matrices."""
    _fired: set[str] = field(default_factory=set, init=False, repr=False)
    _falls: int = field(default=0, init=False, repr=False)
    _first: tuple[float, float] | None = field(default=None, init=False, repr=False)
    """The first downstream score and its standard error."""
    _moment: tuple[int, int] | None = field(default=None, init=False, repr=False)
    """Part and count of the last downstream score that was judged."""
    _batches: deque[tuple[float, int]] = field(default_factory=deque, init=False, repr=False)
    """Edits that took, and edits, of the latest batches that were checked."""

    def __post_init__(self) -> None:
        if self.norm_growth is not None and self.norm_growth <= 1:
            raise ConfigError(f"stage.signatures.norm_growth={self.norm_growth}, but it is a ratio above 1")
        for key in ("activation_shift", "probe_collapse", "edits_fail"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"stage.signatures.{key}={value}, but it lies between 0 and 1")
        if self.ability_loss is not None and self.ability_loss < 1:
            raise ConfigError(
                f"stage.signatures.ability_loss={self.ability_loss}, but it counts measurements, from 1"
            )
        if self.ability_margin is not None and not 0 <= self.ability_margin < 1:
            raise ConfigError(
                f"stage.signatures.ability_margin={self.ability_margin}, but it is a difference of "
                f"accuracies, from 0 to below 1; null for two standard errors"
            )

    def begin(self) -> None:
        """Reset all signatures: none has fired."""
        self._fired, self._falls, self._first, self._moment = set(), 0, None, None
        self._batches = deque()

    def judge(self, observation: Observation, numbers: Mapping[str, float]) -> list[Alarm]:
        """The alarms that fire for the first time in this run."""
        fired = []
        for alarm in self._alarms(observation, numbers):
            if alarm.signature not in self._fired:
                self._fired.add(alarm.signature)
                fired.append(alarm)
        return fired

    def _alarms(self, observation: Observation, numbers: Mapping[str, float]) -> Iterator[Alarm]:
        yield from self._norm_alarms(observation, numbers)
        yield from self._activation_alarms(observation, numbers)
        yield from self._probe_alarms(observation, numbers)
        yield from self._ability_alarms(observation, numbers)
        yield from self._edit_alarms(observation, numbers)

    def _norm_alarms(self, observation: Observation, numbers: Mapping[str, float]) -> Iterator[Alarm]:
        limit = self.norm_growth
        for key in (f"norm/frobenius_ratio/{site}" for site in observation.edited):
            if limit is not None and key in numbers and not numbers[key] <= limit:
                reason = f"is {numbers[key]:.3g} times its unedited norm, over {limit:.3g}"
                yield _alarm("norm_growth", observation, key, numbers[key], limit, reason)

    def _activation_alarms(self, observation: Observation, numbers: Mapping[str, float]) -> Iterator[Alarm]:
        key, limit = "activation/norm_ratio/late", self.activation_shift
        if limit is None or key not in numbers or limit <= numbers[key] <= 1 / limit:
            return
        threshold = limit if numbers[key] < limit else 1 / limit
        reason = f"is {numbers[key]:.3g}, outside {limit:.3g} to {1 / limit:.3g}"
        yield _alarm("activation_shift", observation, key, numbers[key], threshold, reason)

    def _probe_alarms(self, observation: Observation, numbers: Mapping[str, float]) -> Iterator[Alarm]:
        key, limit = "probe/accuracy/mean", self.probe_collapse
        # weak probes may be below the limit on the unedited model already
        unchanged = numbers.get("probe/change_high/mean", -1) >= 0
        if limit is not None and key in numbers and not (numbers[key] >= limit or unchanged):
            reason = f"is {numbers[key]:.3g}, below {limit:.3g}"
            yield _alarm("probe_collapse", observation, key, numbers[key], limit, reason)

    def _ability_alarms(self, observation: Observation, numbers: Mapping[str, float]) -> Iterator[Alarm]:
        key, limit = "downstream/mean/acc", self.ability_loss
        if limit is None or key not in numbers:
            return
        value = numbers[key]
        if math.isnan(value):
            yield _alarm("ability_loss", observation, key, value, float(limit), "is not a number")
            return
        error = numbers.get("downstream/mean/stderr", math.nan)
        moment = observation.part, observation.count
        if self._first is None:
            self._first = value, error
        if moment == self._moment or observation.count == 0:
            return  # the same model was judged already: an alarm stopped the run, or another part begins
        self._moment = moment
        first, first_error = self._first
        margin = self.ability_margin
        if margin is None:
            margin = _STANDARD_ERRORS * math.hypot(first_error, error)
        self._falls = self._falls + 1 if first - value > margin else 0
        if self._falls >= limit:
            reason = f"is {value:.3g}, below its first value {first:.3g} {self._falls} times in a row"
            yield _alarm("ability_loss", observation, key, value, float(limit), reason)

    def _edit_alarms(self, observation: Observation, numbers: Mapping[str, float]) -> Iterator[Alarm]:
        key, limit = "edit/took/mean", self.edits_fail
        size = observation.count - observation.before
        if limit is None or key not in numbers or not size:  # without new edits the batch was judged already
            return
        self._batches.append((numbers[key] * size, size))
        while sum(edits for _, edits in self._batches) - self._batches[0][1] >= _EDITS:
            self._batches.popleft()
        took, edits = (sum(column) for column in zip(*self._batches, strict=True))
        if least_share(round(edits - took), edits) > limit:
            reason = f"is {took / edits:.3g} over {edits} edits, surely below {1 - limit:.3g}"
            yield _alarm("edits_fail", observation, key, took / edits, 1 - limit, reason)


def least_share(hits: int, trials: int) -> float:
    """The lower end of the one-sided 99 % Clopper–Pearson interval of a share."""
    return float(betaincinv(hits, trials - hits + 1, _DOUBT)) if hits else 0.0


def _alarm(
    signature: str, observation: Observation, key: str, value: float, threshold: float, reason: str
) -> Alarm:
    return Alarm(
        signature=signature,
        count=observation.count,
        unit=observation.unit,
        part=observation.part,
        key=key,
        value=value,
        threshold=threshold,
        sentence=f"{signature} after {counted(observation.count, observation.unit)}: {key} {reason}",
    )
