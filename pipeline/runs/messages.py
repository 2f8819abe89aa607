"""Texts for people: errors, ends of processes, durations and the overrides of runs."""

import re
import signal
import traceback
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from editors.errors import NormscopeError
from pipeline.config.secrets import without_secrets

_ELSEWHERE = ("launcher", "tracker")
"""Groups that say where a run is computed and watched, and do not change its numbers."""


def reason(error: BaseException) -> str:
    """The error in one line; of an unexpected one also its type."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1} is no YAML: {error.problem}"
    expected = isinstance(error, NormscopeError | HydraException | OmegaConfBaseException)
    cause = f" ({error.__cause__})" if isinstance(error, HydraException) and error.__cause__ else ""
    first = f"{error}{cause}".strip().split("\n", 1)[0]
    return first if expected else f"{type(error).__name__}: {first}"


def report(error: BaseException) -> str:
    """One sentence, then the traceback."""
    message = "".join(str(error).strip().splitlines()[:1])
    if not isinstance(error, NormscopeError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{message}\n\n{''.join(traceback.format_exception(error))}"


def departure(code: int) -> str:
    """How a process ended that gave no result."""
    if code < 0:
        cause = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{cause}"
    if code - 128 in set(signal.Signals):
        return f"was asked to leave by {signal.Signals(code - 128).name}; the same command goes on"
    return f"left with status {code} and without a result"


def duration(seconds: float) -> str:
    """Seconds in words: `12 s`, `5 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def numerical(overrides: Sequence[str]) -> list[str]:
    """The overrides without those that only say where a run is computed and watched."""
    return [text for text in overrides if re.split(r"[.=@]", text.lstrip("+~"))[0] not in _ELSEWHERE]


def publishable(overrides: Sequence[str]) -> tuple[str, ...]:
    """The numerical overrides without secrets."""
    return tuple(without_secrets(numerical(overrides)))


def without_shared(jobs: Sequence[Sequence[str]]) -> list[str]:
    """A line for each job: the overrides that not all of them share; all overrides of a single job."""
    shared = set(jobs[0]).intersection(*jobs[1:]) if len(jobs) > 1 else set()
    return [" ".join(text for text in job if text not in shared) for job in jobs]
