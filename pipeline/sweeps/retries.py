"""Trials of a search that have no result: those of a killed process count, all others just wait.

A trial waits where somebody asked the search to leave, or where another process computes its run.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import optuna
from optuna.trial import TrialState

from pipeline.runs.signals import LEAVE, Interrupted

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a trial is begun whose process is killed, before it counts as failed."""


def take_up(study: optuna.Study) -> None:
    """Queue the trials again that a killed process left: their runs go on where they were."""
    storage = study._storage
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        begun = trial.user_attrs.get("begun", 1)
        if begun >= ATTEMPTS:
            storage.set_trial_user_attr(trial._trial_id, "error", f"its process was killed {begun} times")
        else:
            storage.set_trial_user_attr(trial._trial_id, "begun", begun + 1)
        storage.set_trial_state(trial._trial_id, TrialState.FAIL if begun >= ATTEMPTS else TrialState.WAITING)
        log.info("trial %d was interrupted", trial.number)


@contextmanager
def waiting(study: optuna.Study) -> Iterator[None]:
    """Let trials that are not over wait for the next launch, unless the process is killed."""
    with _asked():
        try:
            yield
        except BaseException as error:
            if _is_orderly(error):
                _wait(study)
            raise
        _wait(study)


def _wait(study: optuna.Study) -> None:
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study._storage.set_trial_state(trial._trial_id, TrialState.WAITING)


def _is_orderly(error: BaseException) -> bool:
    """Whether the search fails as a whole or was asked to leave; any other exit is a trial's doing."""
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and error.code - 128 in LEAVE
    return isinstance(error, Exception | KeyboardInterrupt | Interrupted)


@contextmanager
def _asked() -> Iterator[None]:
    """Leave in order where nothing else receives a signal, as between two runs."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, leave) for number in LEAVE if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
