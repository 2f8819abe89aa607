"""The folders of runs on the disk, and the finished run that another run builds on."""

import logging
import os
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis.results.run_folder import LATEST, MARKS, RunFolder, run_folders, runs_at
from analysis.results.seal import UNVERIFIABLE
from analysis.selection import is_latest, selected
from editors.disk import replacing
from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import Config, fingerprint, label, run_name

log = logging.getLogger(__name__)

_TAKEN = ("cache", "models")
"""Folders in it that hold no runs."""
_LONGEST = 128
"""Most characters of the name of a group of W&B, which is that of the experiment."""
_MOST_BYTES = 200
"""Most bytes of a name; file systems allow 255, and unfinished files have longer names."""


def folder_of(root: Path, config: Config) -> Path:
    """The folder of the run, `<root>/<name>/<run>`; raises ConfigError if `name` cannot name a folder."""
    name = config.get("name")
    if reason := _problem(name, root):
        raise ConfigError(f"name={reprlib.repr(name)} cannot name a folder: {reason}")
    return run_folder(root / str(name), config)


def run_folder(experiment: Path, config: Config) -> Path:
    """The folder of the run in that of its experiment, `<experiment>/<label>-<fingerprint>`.

    A run that was begun before names had labels keeps its folder, `<experiment>/<fingerprint>`.
    """
    former = experiment / fingerprint(config)
    return former if former.is_dir() else experiment / run_name(config)


def point_latest(folder: Path) -> None:
    """Make `latest`, beside the folder of a run, a link to it, at once; left out if the disk has no links."""
    with suppress(OSError), replacing(folder.parent / LATEST) as link:
        link.symlink_to(folder.name)


def place(folder: Path) -> tuple[int, int] | None:
    """Device and number of a folder, by which it is told from another one of its name; None if it is gone."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary of the finished run that a configuration led to.

    Raises:
        DataError: if it cannot be read, or the folder is a copy of another run's.
    """
    own, summary = RunFolder(folder).fingerprint, RunFolder(folder).final_summary()
    if (run := summary.get("run", own)) != own:
        raise DataError(
            f"{folder} holds the run {run}, of another configuration, and was copied or renamed: move it "
            "away to compute this run"
        )
    return summary


def finished_run(folder: Path) -> Path:
    """The only run in the folder; raises DataError if it is not finished or there are several."""
    run, *others = run_folders([folder])
    if others:
        raise DataError(
            f"{folder} holds {len(others) + 1} runs: name one of them, such as {run.path} "
            f"(python -m pipeline status {folder} lists them)"
        )
    if not run.is_done:
        raise DataError(
            f"{run.path} is not finished: python -m pipeline status {run.path.parent} shows its progress"
        )
    return run.path


def run_of(text: str, model: object = None, seed: object = None) -> Path:
    """The folder of the finished run that `intervention.source` names (`analysis.selection`).

    If it names several, or their experiment, it is the only finished one, or the only one of them with this
    name of a model and this seed.

    Raises:
        ConfigError: if there is no such run, or several.
        DataError: if the configuration of a run cannot be read.
    """
    key = f"intervention.source={text}"
    try:
        folders = selected(text)
    except DataError as error:
        raise ConfigError(f"{key}: {error}") from error
    if is_latest(text):  # the command line replaces it (pipeline.config.overrides.sources)
        raise ConfigError(f"{key} moves from run to run: name the run itself, which is now {folders[0]}")
    runs = [run for folder in folders for run in runs_at(folder)]
    done = [run for run in runs if run.is_done]
    alike = done if len(done) == 1 else [run for run in done if _is_of(run, model, seed)]
    if len(alike) == 1:
        return alike[0].path
    if done:
        raise ConfigError(
            f"{key} holds {len(done)} finished runs, {len(alike)} of them of model={model} and "
            f"seed={seed}: name one, such as intervention.source={done[0].path}"
        )
    if len(runs) == 1:
        raise ConfigError(f"{key} is a run that is not finished: complete it first")
    raise ConfigError(
        f"{key} holds no finished run: give the folder of a run, outputs/<name>/<run>, or of an "
        f"experiment with one (now in {Path.cwd()})"
    )


def warn_if_unverifiable(run: Path) -> None:
    """Log a warning if a finished run has no seal; raises DataError if its seal is damaged."""
    if RunFolder(run).is_unverifiable:
        log.warning("the files of %s cannot be verified, because %s", run, UNVERIFIABLE)


def _problem(name: object, root: Path) -> str:
    """Why a name is refused, and the way out; empty if it is not."""
    if not isinstance(name, str):
        quoted = "" if name is None else f"; a text that looks like one is quoted twice, name='\"{name}\"'"
        return f"it is read as {type(name).__name__}, not as text{quoted}"
    if not name or not name.isprintable() or name != name.strip() or {"/", "\\"} & set(name):
        return "use letters, digits, '-' and '_'"
    if name[0] in ".-~" or name[-1] == ".":
        return "it begins with '.', '-' or '~', or ends with '.'"
    if len(name) > _LONGEST or len(os.fsencode(name)) > _MOST_BYTES:
        return f"it has {len(name)} characters, more than {_LONGEST} or than {_MOST_BYTES} bytes: shorten it"
    if name.casefold() in _TAKEN:
        return f"{root}/{name.casefold()} holds files that runs share; choose another name"
    if name.casefold() in map(str.casefold, MARKS):
        return f"{root} with a file of this name would be read as a run; choose another name"
    if (root / name).exists() and root / name not in root.iterdir():
        return f"on this disk it is the folder of another name in {root} that differs in case or accents"
    return ""


def _is_of(run: RunFolder, model: object, seed: object) -> bool:
    config = run.config()
    return label(config, "model") == model and config.get("seed") == seed
