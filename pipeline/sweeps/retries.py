"""Trials without a result: the next launch resumes them, unless their process was killed too often.

A trial has no result yet if the search or its run received a stop signal, if the search failed as a whole, if
another process is computing its run, or if its process was killed. Optuna reports all of them as RUNNING; the
study attribute `unfinished` distinguishes the killed ones.
"""

import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import optuna
from optuna.trial import FrozenTrial, TrialState

from analysis.interrupts import received
from pipeline.runs.signals import LEAVE, Interrupted

log = logging.getLogger(__name__)

MAX_KILLS = 3
"""Number of kills at which a trial is marked as failed."""
RUN = "run"
"""Attribute of a trial, set before it is launched: the name of its run's folder; null if it has none."""
ERRORS = "errors"
"""Attribute of the study: why trials failed, by number."""
UNFINISHED = "unfinished"
"""Attribute of the study: kills by trial (`killed`), and the trials that were stopped cleanly (`left`)."""


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials whose parameters were sampled and whose `run` attribute is set.

    Trials whose process was killed earlier than that are ignored.
    """
    return [trial for trial in study.get_trials(deepcopy=False) if RUN in trial.user_attrs]


def fail(study: optuna.Study, number: int, reason: str) -> None:
    """Mark a trial as failed, with the reason."""
    study.set_user_attr(ERRORS, {**study.user_attrs.get(ERRORS, {}), str(number): reason})
    study.tell(number, state=TrialState.FAIL)


def resumable(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that wait for a result; those without a run, or killed `MAX_KILLS` times, fail here."""
    counts, stopped_cleanly = _unfinished(study)
    trials = study.get_trials(states=(TrialState.RUNNING,))
    for number in (trial.number for trial in trials if trial.number not in stopped_cleanly):
        counts[str(number)] = counts.get(str(number), 0) + 1
        log.info("the process of trial %d was killed (%d of %d)", number, counts[str(number)], MAX_KILLS)
    # until they are launched again, a kill of this process does not count against them
    _store_unfinished(study, counts, [trial.number for trial in trials])
    return [trial for trial in trials if not _fail_if_exhausted(study, trial, counts)]


def _fail_if_exhausted(study: optuna.Study, trial: FrozenTrial, counts: Mapping[str, int]) -> bool:
    """Fail a trial that has no run or was killed `MAX_KILLS` times; returns whether it failed."""
    if RUN not in trial.user_attrs:
        fail(study, trial.number, "its process was killed before its run began")
    elif counts.get(str(trial.number), 0) >= MAX_KILLS:
        fail(study, trial.number, f"its process was killed {MAX_KILLS} times")
    else:
        return False
    return True


def mark_relaunched(study: optuna.Study, numbers: Sequence[int]) -> None:
    """Mark trials as launched again: from now on a kill counts against them."""
    counts, stopped_cleanly = _unfinished(study)
    if numbers:
        _store_unfinished(study, counts, sorted(set(stopped_cleanly) - set(numbers)))


def _unfinished(study: optuna.Study) -> tuple[dict[str, int], list[int]]:
    """How often each trial was killed, by number as text, and the trials that were stopped cleanly."""
    unfinished = study.user_attrs.get(UNFINISHED, {})
    return unfinished.get("killed", {}), unfinished.get("left", [])


def _store_unfinished(study: optuna.Study, counts: Mapping[str, int], stopped_cleanly: Sequence[int]) -> None:
    study.set_user_attr(UNFINISHED, {"killed": counts, "left": stopped_cleanly})


@contextmanager
def requeue_on_exit(study: optuna.Study) -> Iterator[None]:
    """On an orderly exit from the block, mark running trials as stopped cleanly.

    The next launch then does not count a kill against them.
    """
    # between two runs no other handler catches stop signals
    with received([number for number in LEAVE if number != signal.SIGINT], _raise_exit):
        try:
            yield
        except BaseException as error:
            if _is_orderly_exit(error):
                _mark_running_as_stopped(study)
            raise
        _mark_running_as_stopped(study)


def _mark_running_as_stopped(study: optuna.Study) -> None:
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    _store_unfinished(study, _unfinished(study)[0], [trial.number for trial in trials])


def _is_orderly_exit(error: BaseException) -> bool:
    """Whether the search failed as a whole or received a stop signal; any other exit counts as a kill."""
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and error.code - 128 in LEAVE
    return isinstance(error, Exception | KeyboardInterrupt | Interrupted)


def _raise_exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
