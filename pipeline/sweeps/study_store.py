"""The stored study of a search: locked, created if it is missing, refused if it is another search."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from analysis.results.study_file import open_storage
from editors.errors import ConfigError, DataError, NormscopeError
from pipeline.runs.objectives import Direction
from pipeline.sweeps.search_space import Space, is_compatible


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from searching in this folder; raises ConfigError if one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".search.lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another process searches in {folder}: wait for it, or choose another name=…"
        ) from error


def open_study(
    url: str,
    name: str,
    *,
    objectives: Mapping[str, Direction],
    identity: Mapping[str, Any],
    space: Space,
    first: Sequence[Mapping[str, Any]] = (),
) -> optuna.Study:
    """The stored study, or a new one.

    Args:
        url: Address of the storage, in the form of SQLAlchemy.
        name: Name of the study in this storage.
        objectives: Direction by name.
        identity: Attributes that have to be the same whenever the search is continued.
        space: Search space; ranges may differ from those of earlier trials.
        first: Parameters of the first trials of a new study; keys that are left out are sampled.

    Raises:
        ConfigError: if the stored study is another search of which a trial has ended.
        DataError: if the storage cannot be opened, or its search space cannot be read.
    """
    storage = open_storage(url)
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        try:
            _check(study, url, identity, space)
            if study.trials:
                return study
        except NormscopeError:
            if any(trial.state.is_finished() for trial in study.trials):
                raise
        optuna.delete_study(study_name=name, storage=storage)  # it has no results, so it may be replaced
    study = optuna.create_study(study_name=name, storage=storage, directions=[*objectives.values()])
    study.set_metric_names([*objectives])
    for key, value in identity.items():
        study.set_user_attr(key, value)
    study.set_user_attr("space", {key: distribution_to_json(each) for key, each in space.items()})
    for parameters in first:
        study.enqueue_trial({**parameters})
    return study


def complete_trials(url: str, name: str) -> list[FrozenTrial]:
    """The trials of a stored study that have a value; raises DataError if the storage cannot be opened."""
    study = optuna.load_study(study_name=name, storage=open_storage(url, read_only=True))
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _check(study: optuna.Study, url: str, identity: Mapping[str, Any], space: Space) -> None:
    """Raise ConfigError if trials of the stored study and of this search cannot be compared."""
    stored = study.user_attrs
    different = [key for key, value in identity.items() if stored.get(key) != value]
    try:
        old = {key: json_to_distribution(text) for key, text in stored.get("space", {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{url} holds no search space that can be read ({type(error).__name__}): choose another name=… "
            "for a new search, or delete that file"
        ) from error
    if not is_compatible(old, space):
        different.append("parameters")
    if different:
        raise ConfigError(
            f"{url} holds a search with other {different[0]}: "
            "choose another name=… for this one, or delete that file"
        )
