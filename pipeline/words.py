"""How errors, ends of processes and times are put for people."""

import signal
import traceback

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from editors.errors import NormscopeError


def reason(error: BaseException) -> str:
    """One line for people; of an error that nobody foresaw its kind as well."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1} is no YAML: {error.problem}"
    foreseen = isinstance(error, NormscopeError | HydraException | OmegaConfBaseException)
    cause = f" ({error.__cause__})" if isinstance(error, HydraException) and error.__cause__ else ""
    first = f"{error}{cause}".strip().split("\n", 1)[0]
    return first if foreseen else f"{type(error).__name__}: {first}"


def report(error: BaseException) -> str:
    """One sentence, then the traceback."""
    message = "".join(str(error).strip().splitlines()[:1])
    if not isinstance(error, NormscopeError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{message}\n\n{''.join(traceback.format_exception(error))}"


def departure(code: int) -> str:
    """How a process left that gave no result."""
    if code < 0:
        cause = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{cause}"
    if code - 128 in set(signal.Signals):
        return f"was asked to leave by {signal.Signals(code - 128).name}; the same command goes on"
    return f"left with status {code} and without a result"


def duration(seconds: float) -> str:
    """Seconds for people: `12 s`, `5 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
