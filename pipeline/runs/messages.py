"""Texts for users: errors, exits of processes, durations and the overrides of runs."""

import re
import shlex
import signal
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from editors.errors import NormscopeError
from pipeline.config.secrets import without_secrets
from pipeline.paths import shown_python

_ELSEWHERE = ("launcher", "tracker")
"""Groups that set the machine and the tracker of a run, and do not change its numbers."""


def error_line(error: BaseException) -> str:
    """The message of an error in one line; an unexpected one has its type before and its notes behind it."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1} is not valid YAML: {error.problem}"
    expected = isinstance(error, NormscopeError | HydraException | OmegaConfBaseException)
    cause = f" ({error.__cause__})" if isinstance(error, HydraException) and error.__cause__ else ""
    first = f"{error}{cause}".strip().split("\n", 1)[0]
    return first if expected else f"{type(error).__name__}: {first}{_notes(error)}"


def error_report(error: BaseException) -> str:
    """The message of an error in one line, an empty line, and the traceback: the content of `FAILED`."""
    message = "".join(str(error).strip().splitlines()[:1])
    if not isinstance(error, NormscopeError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
        message += _notes(error)
    return f"{message}\n\n{''.join(traceback.format_exception(error))}"


def _notes(error: BaseException) -> str:
    """The first line of each note, such as the stage in which the error occurred, in brackets."""
    notes = [note.partition("\n")[0] for note in getattr(error, "__notes__", ())]
    return f" ({', '.join(notes)})" if notes else ""


def exit_message(code: int) -> str:
    """How a process with this exit code ended without a result; negative codes are signals."""
    if code < 0:
        cause = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{cause}"
    if code - 128 in set(signal.Signals):
        return f"was asked to leave by {signal.Signals(code - 128).name}; the same command continues"
    return f"exited with status {code} and without a result"


def next_command(*folders: Path) -> str:
    """The command that makes tables and figures of runs or experiments, with what it is for."""
    command = f"{shown_python()} -m analysis report {shlex.join(map(str, folders))}"
    return f"tables, facts and figures: {command}"


def duration(seconds: float) -> str:
    """Seconds in words: `12 s`, `5 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def numerical(overrides: Sequence[str]) -> list[str]:
    """The overrides without those of the launcher and the tracker, which change no number."""
    return [text for text in overrides if re.split(r"[.=@]", text.lstrip("+~"))[0] not in _ELSEWHERE]


def publishable(overrides: Sequence[str]) -> tuple[str, ...]:
    """The numerical overrides without secrets."""
    return tuple(without_secrets(numerical(overrides)))


def without_shared(jobs: Sequence[Sequence[str]]) -> list[str]:
    """One line per job: the overrides that the jobs do not all share; all overrides of a single job."""
    shared = set(jobs[0]).intersection(*jobs[1:]) if len(jobs) > 1 else set()
    return [" ".join(text for text in job if text not in shared) for job in jobs]
