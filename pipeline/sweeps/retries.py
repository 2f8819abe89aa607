"""Trials without a result: the next launch continues them, unless their process was killed too often.

A trial has no result yet if the search was asked to leave, if another process computes its run, or if the
process was killed. Optuna keeps all of these as running; `unfinished`, an attribute of the study, tells them
apart.
"""

import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.runs.signals import LEAVE, Interrupted, received

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Number of kills of its process after which a trial counts as failed."""
RUN = "run"
"""Attribute of a trial, set before it is launched: the fingerprint of its run; null if it has none."""
ERRORS = "errors"
"""Attribute of the study: why trials failed, by number."""
UNFINISHED = "unfinished"
"""Attribute of the study: how often processes of trials were killed, and which trials were left in order."""


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials with values and a run; a process may be killed before its trial has a run."""
    return [trial for trial in study.get_trials(deepcopy=False) if RUN in trial.user_attrs]


def fail(study: optuna.Study, number: int, sentence: str) -> None:
    """Mark a trial as failed, with the reason."""
    study.set_user_attr(ERRORS, {**study.user_attrs.get(ERRORS, {}), str(number): sentence})
    study.tell(number, state=TrialState.FAIL)


def resumable(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that wait for a result; those whose process was killed `ATTEMPTS` times fail here."""
    counts, left = _unfinished(study)
    trials = study.get_trials(states=(TrialState.RUNNING,))
    for number in (trial.number for trial in trials if trial.number not in left):
        log.info("trial %d was interrupted", number)
        counts[str(number)] = counts.get(str(number), 0) + 1
    _note(study, counts, [trial.number for trial in trials])
    return [trial for trial in trials if not _is_given_up(study, trial, counts)]


def _is_given_up(study: optuna.Study, trial: FrozenTrial, counts: Mapping[str, int]) -> bool:
    """Whether the trial fails instead of being launched again."""
    if RUN not in trial.user_attrs:
        fail(study, trial.number, "its process was killed before its run began")
    elif counts.get(str(trial.number), 0) >= ATTEMPTS:
        fail(study, trial.number, f"its process was killed {ATTEMPTS} times")
    else:
        return False
    return True


def begin(study: optuna.Study, numbers: Sequence[int]) -> None:
    """Note that trials are launched again: from now on a kill counts against them."""
    counts, left = _unfinished(study)
    if numbers:
        _note(study, counts, sorted(set(left) - set(numbers)))


def _unfinished(study: optuna.Study) -> tuple[dict[str, int], list[int]]:
    """How often each trial was killed, by number as text, and the trials that were left in order."""
    noted = study.user_attrs.get(UNFINISHED, {})
    return noted.get("killed", {}), noted.get("left", [])


def _note(study: optuna.Study, counts: Mapping[str, int], left: Sequence[int]) -> None:
    study.set_user_attr(UNFINISHED, {"killed": counts, "left": left})


@contextmanager
def requeue_on_exit(study: optuna.Study) -> Iterator[None]:
    """Let trials that are not over wait for the next launch, unless the process is killed."""
    # between two runs nothing else receives a signal
    with received([number for number in LEAVE if number != signal.SIGINT], _raise_exit):
        try:
            yield
        except BaseException as error:
            if _is_orderly(error):
                _leave(study)
            raise
        _leave(study)


def _leave(study: optuna.Study) -> None:
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    _note(study, _unfinished(study)[0], [trial.number for trial in trials])


def _is_orderly(error: BaseException) -> bool:
    """Whether the search fails as a whole or was asked to leave; any other exit was caused by a trial."""
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and error.code - 128 in LEAVE
    return isinstance(error, Exception | KeyboardInterrupt | Interrupted)


def _raise_exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
