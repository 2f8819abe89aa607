"""The section of the report on a search by Optuna: trials, the best of them, importance, a figure.

Reads `study.db` in the folder of an experiment, and never writes there. Optuna is an extra; if it is not
installed, a sentence says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pandas as pd

from analysis.plots.charts.canvas import NEUTRAL, PALETTE
from analysis.plots.charts.points import Spread, Track, TrackChart
from analysis.results.study_file import open_storage
from editors.errors import DataError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STORE = "study.db"
_ENOUGH = 3
"""Completed trials for each parameter without which its importance would be a guess."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One study, or the reason why it is not shown."""

    name: str
    trials: pd.DataFrame
    """One row per trial, as text: parameters, objectives, run, state; empty if the file cannot be read."""
    importance: pd.DataFrame
    """One row per parameter: its share of each objective's variance, as text; empty for too few trials."""
    chart: TrackChart | None
    """Objective over trials, or the first two objectives against each other."""
    notes: tuple[str, ...]


def searches(folder: Path) -> list[Search]:
    """The studies in the folder of an experiment; empty if it holds no `study.db`."""
    path = folder / STORE
    if not path.is_file():
        return []
    try:
        return _read(path)
    except ImportError:
        sentence = f"{path} is not shown, because Optuna is not installed: pip install optuna cmaes"
    except DataError as error:
        sentence = f"{path} is not shown: {error}"
    except Exception as error:  # whatever a torn database makes Optuna raise
        sentence = f"{path} is not shown: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    nothing = pd.DataFrame()
    return [Search(name=folder.name, trials=nothing, importance=nothing, chart=None, notes=(sentence,))]


def _read(path: Path) -> list[Search]:
    import optuna

    # opened for reading alone: a search may be writing
    storage = open_storage(f"sqlite:///file:{quote(str(path.resolve()))}?mode=ro&uri=true", read_only=True)
    try:
        names = optuna.get_all_study_names(storage)
        return [_search(optuna.load_study(study_name=name, storage=storage)) for name in names]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _search(study: "Study") -> Search:
    trials = study.trials
    names = study.metric_names or [f"value {i + 1}" for i in range(len(study.directions))]
    valued = [trial for trial in trials if trial.values is not None]
    # Optuna stores infinite values, which no axis and no share of a variance can hold
    complete = [trial for trial in valued if np.isfinite(trial.values).all()]
    best = _best(study) if valued else []
    importance, notes = _importance(study, complete, names)
    if len(complete) < len(valued):
        notes.append(f"Values of {len(valued) - len(complete)} trials are not finite: they are not drawn.")
    errors: dict[str, str] = study.user_attrs.get("errors", {})
    return Search(
        name=study.study_name,
        trials=_table(trials, names, _states(study, best)),
        importance=importance,
        chart=_chart(study, complete, names, best) if complete else None,
        notes=(*notes, *(f"Trial {number} failed: {reason}" for number, reason in errors.items())),
    )


def _states(study: "Study", best: Sequence[int]) -> dict[int, str]:
    """The state of each trial; a trial that was left in order waits, although Optuna has it as running."""
    waiting = study.user_attrs.get("unfinished", {}).get("left", [])
    mark = "best" if len(study.directions) == 1 else "Pareto-optimal"
    states = {trial.number: trial.state.name.lower() for trial in study.trials}
    return {
        number: mark if number in best else "waiting" if number in waiting and state == "running" else state
        for number, state in states.items()
    }


def _best(study: "Study") -> list[int]:
    """Numbers of the best trial, or of the Pareto-optimal ones."""
    if len(study.directions) == 1:
        return [study.best_trial.number]
    return [trial.number for trial in study.best_trials]


def _table(trials: Sequence["FrozenTrial"], names: Sequence[str], states: Mapping[int, str]) -> pd.DataFrame:
    parameters = dict.fromkeys(name for trial in trials for name in trial.params)
    return pd.DataFrame(
        [
            {
                "trial": str(trial.number),
                **{name: _text(trial.params.get(name, "–")) for name in parameters},
                **{
                    name: _text(value)
                    for name, value in zip(names, trial.values or ["–"] * len(names), strict=False)
                },
                "run": str(trial.user_attrs.get("run") or "–"),
                "state": states[trial.number],
            }
            for trial in trials
        ]
    )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importance(
    study: "Study", complete: Sequence["FrozenTrial"], names: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Shares of the variance by fANOVA, one column per objective, sorted by the first column.

    Source: Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    needed = max(_ENOUGH * len({name for trial in complete for name in trial.params}), 2)
    if len(complete) < needed:
        note = f"The importance of the parameters needs at least {needed} completed trials; there are"
        return pd.DataFrame(), [f"{note} {len(complete)}."]
    columns: dict[str, dict[str, float]] = {}
    notes = []
    for place, name in enumerate(names):
        if len({trial.values[place] for trial in complete}) < 2:
            notes.append(f"All trials have the same {name}: no parameter matters.")
            continue
        columns[name] = dict(
            get_param_importances(
                study,
                evaluator=FanovaImportanceEvaluator(seed=0),
                target=lambda trial, place=place: trial.values[place],
            )
        )
    table = pd.DataFrame(columns)
    if table.empty:
        return table, notes
    table = table.sort_values(table.columns[0], ascending=False, kind="stable")
    return table.map(_text).rename_axis("parameter").reset_index(), notes


def _chart(
    study: "Study", complete: Sequence["FrozenTrial"], names: Sequence[str], best: Sequence[int]
) -> TrackChart:
    values = np.array([trial.values for trial in complete])
    numbers = np.array([trial.number for trial in complete])
    if len(names) > 1:
        front = np.isin(numbers, best)
        order = np.argsort(values[front, 0], kind="stable")
        tracks = [
            _track("other trials", NEUTRAL, values[~front, :2], numbers[~front], joined=False),
            _track(
                "Pareto-optimal", PALETTE[0], values[front, :2][order], numbers[front][order], joined=True
            ),
        ]
        return TrackChart(
            tracks=tuple(track for track in tracks if track.notes),
            x_label=names[0],
            y_label=names[1],
            scale="linear",
        )
    running = np.maximum if study.direction.name == "MAXIMIZE" else np.minimum
    reached = np.stack([numbers, running.accumulate(values[:, 0])], axis=1)
    single = np.stack([numbers, values[:, 0]], axis=1)
    return TrackChart(
        tracks=(
            _track("trial", NEUTRAL, single, numbers, joined=False),
            _track("best so far", PALETTE[0], reached, numbers, joined=True),
        ),
        x_label="trial",
        y_label=names[0],
        scale="linear",
    )


def _track(label: str, colour: str, points: np.ndarray, numbers: np.ndarray, *, joined: bool) -> Track:
    x, y = (Spread.exact(axis) for axis in points.T.astype(float).tolist())
    notes = [f"trial {number}" for number in numbers]
    return Track(label=label, colour=colour, x=x, y=y, notes=notes, joined=joined)
