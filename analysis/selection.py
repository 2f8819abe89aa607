"""The experiments and runs that a text of the command line names.

| text | names |
|---|---|
| `outputs/<name>` | an experiment |
| `outputs/<name>/<run>` | a run, also by a unique beginning of its folder's name or of its fingerprint |
| `outputs/<name>/latest` | the run that was computed last |
| `outputs/<name>:editor=memit,seed=0` | the runs of an experiment with these values in their configurations |
| `3fb1395abc` | the run of this fingerprint, or of a unique beginning of it, in any experiment of `outputs` |
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.results.run_files import one_line
from analysis.results.run_folder import CONFIG, LATEST, RunFolder, run_folders, runs_in
from editors.errors import DataError
from editors.text_files import local_path

OUTPUTS = Path("outputs")
"""The folder of all experiments."""
RUN = "a run: its folder, a beginning of it, outputs/NAME/latest or outputs/NAME:editor=memit,seed=0"
RUNS = "experiments, outputs/NAME, and runs: outputs/NAME/latest, outputs/NAME:editor=memit,seed=0"
"""Help of the arguments of commands."""
SETTINGS_END = re.compile(r",(?![\w./]+=)")
"""A comma after a selection; the one between two of its settings is followed by a key."""
_BETWEEN = re.compile(r",(?=[\w./]+=)")
"""A comma between two settings; one inside of a value, such as `[0,1]`, is not followed by a key."""
_SETTINGS = re.compile(r"(.+):([\w./]+=.*)")
_MARKS = re.compile(r"[\[\]'\"\s]")
"""Characters that a shell or a person may leave out of a value such as `[0, 1]`."""
_SHOWN = 6
"""Most alternatives that a message names."""


def selected(*texts: str) -> list[Path]:
    """The folders that the texts name, of experiments and runs, each once.

    A text that names nothing of an experiment is the path that it is, for the reader of the folder to refuse.

    Raises:
        DataError: if an experiment has no such run, or several begin like this.
    """
    return list(dict.fromkeys(folder for text in texts for folder in _folders(text)))


def selected_one(text: str) -> Path:
    """The only folder that a text names; raises DataError as `selected`, or if there are several."""
    folder, *others = selected(text)
    if others:
        raise DataError(f"{text} names {len(others) + 1} runs: choose {_some([folder, *others])}")
    return folder


def by_settings(text: str) -> bool:
    """Whether a text names runs by values of their configurations."""
    return _SETTINGS.fullmatch(text) is not None and not local_path(text).exists()


def is_latest(text: str) -> bool:
    """Whether a text names a link that moves to the next run."""
    path = local_path(text)
    return path.name == LATEST and path.is_symlink()


def _folders(text: str) -> list[Path]:
    folder = local_path(text)
    if is_latest(text):
        folder = folder.parent / folder.readlink()
    if folder.exists():
        return [folder]
    if match := _SETTINGS.fullmatch(text):
        return _with_settings(local_path(match[1]), match[2])
    return _beginning(folder)


def _with_settings(experiment: Path, text: str) -> list[Path]:
    settings = dict(setting.split("=", 1) for setting in _BETWEEN.split(text))
    there: dict[str, None] = {}
    matching: list[Path] = []
    for run in run_folders([experiment]):
        # a run that failed before it began has no configuration
        config = run.config() if (run.path / CONFIG).exists() else {}
        values = {key: _value(config, key) for key in settings}
        there[",".join(f"{key}={value}" for key, value in values.items())] = None
        if all(_is_same(value, settings[key]) for key, value in values.items()):
            matching.append(run.path)
    if not matching:
        raise DataError(f"no run of {experiment} has {text}: choose {_some(list(there))}")
    return matching


def _beginning(folder: Path) -> list[Path]:
    """The run whose name or fingerprint begins like this path's, in its folder; without one, in `OUTPUTS`."""
    is_bare = folder.parent == Path()
    places = [folder.parent, *(sorted(OUTPUTS.iterdir()) if is_bare and OUTPUTS.is_dir() else [])]
    runs = [run for place in places for run in runs_in(place)]
    matching = [run.path for run in runs if _begins(run, folder.name)]
    if len(matching) > 1:
        raise DataError(f"{folder} begins the names of {len(matching)} runs: choose {_some(matching)}")
    if not matching and runs and not is_bare:
        raise DataError(
            f"no run of {folder.parent} begins with {folder.name}: choose {_some([run.path for run in runs])}"
        )
    return matching or [folder]


def _begins(run: RunFolder, text: str) -> bool:
    return run.name.startswith(text) or run.fingerprint.startswith(text)


def _value(config: Mapping[str, object], key: str) -> str:
    """The value of a dotted key as text; of a group its name, or the names in it; `null` if there is none."""
    node: object = config
    for part in re.split(r"[./]", key):
        node = node.get(part) if isinstance(node, Mapping) else None
    return _as_text(node)


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("name", list(value))
    if isinstance(value, list):
        return f"[{','.join(map(_as_text, value))}]"
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str))


def _is_same(one: str, other: str) -> bool:
    """Whether two values are the same text or the same number."""
    one, other = _MARKS.sub("", one), _MARKS.sub("", other)
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


def _some(alternatives: Sequence[object]) -> str:
    *most, last = map(str, alternatives[:_SHOWN])
    if len(alternatives) > _SHOWN:
        return f"{', '.join([*most, last])} or one of {len(alternatives) - _SHOWN} more"
    return f"{', '.join(most)} or {last}" if most else last
