"""The folders of runs on the disk, and the finished run that another run builds on."""

import os
from pathlib import Path

from analysis.results.run_folder import RunFolder, runs_in
from editors.errors import ConfigError
from pipeline.config.fingerprint import Config, fingerprint, label

OUTPUTS = Path("outputs")
_LONGEST = 128
"""Most characters of the name of a group of W&B, which is that of the experiment."""
_MOST_BYTES = 255
"""Most bytes of the name of a folder."""


def folder_of(root: Path, config: Config) -> Path:
    """The folder of the run, `<root>/<name>/<fingerprint>`; ConfigError if `name` cannot name a folder."""
    name = str(config.get("name") or "")
    if not name.isprintable() or not name.strip(". ") or {"/", "\\"} & set(name):
        raise ConfigError(f"name={name!r} cannot name a folder: use letters, digits, '-' and '_'")
    if len(name) > _LONGEST or len(os.fsencode(name)) > _MOST_BYTES:
        raise ConfigError(f"name={name[:20]}… has {len(name)} characters, more than {_LONGEST}: shorten it")
    return root / name / fingerprint(config)


def run_of(text: str, model: object = None, seed: object = None) -> Path:
    """The folder of the finished run that `intervention.source` names, directly or by its experiment.

    In an experiment it is the only finished run, or the only one with this name of a model and this seed.

    Raises:
        ConfigError: if there is no such run, or several.
        DataError: if the configuration of a run cannot be read.
    """
    folder, key = Path(text).expanduser(), "intervention.source"
    if RunFolder(folder).is_run:
        if not RunFolder(folder).is_done:
            raise ConfigError(f"{key}={text} is a run that is not finished: complete it first")
        return folder
    runs = [run for run in runs_in(folder) if run.is_done]
    alike = runs if len(runs) == 1 else [run for run in runs if _is_of(run, model, seed)]
    if len(alike) == 1:
        return alike[0].path
    if runs:
        raise ConfigError(
            f"{key}={text} holds {len(runs)} finished runs, {len(alike)} of them of model={model} and "
            f"seed={seed}: name one, such as {key}={runs[0].path}"
        )
    raise ConfigError(
        f"{key}={text} holds no finished run: give the folder of a run, outputs/<name>/<run>, or of an "
        f"experiment with one (now in {Path.cwd()})"
    )


def _is_of(run: RunFolder, model: object, seed: object) -> bool:
    config = run.config()
    return label(config, "model") == model and config.get("seed") == seed
