"""Where runs lie on the disk, whether one is done, and what a finished one found."""

import json
from pathlib import Path
from typing import Any

import yaml

from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import Config, fingerprint, label

OUTPUTS = Path("outputs")


def folder_of(root: Path, config: Config) -> Path:
    """Where the run lies, `<root>/<name>/<fingerprint>`; ConfigError where `name` cannot name a folder."""
    name = str(config.get("name") or "")
    if not name.isprintable() or not name.strip(". ") or {"/", "\\"} & set(name):
        raise ConfigError(f"name={name!r} cannot name a folder: use letters, digits, '-' and '_'")
    return root / name / fingerprint(config)


def is_done(folder: Path) -> bool:
    """Whether the run in this folder was computed to its end."""
    return (folder / "DONE").is_file()


def run_of(text: str, model: object = None, seed: object = None) -> Path:
    """The folder of a finished run that `intervention.source` names: itself, or one of its experiment.

    Of an experiment it is the only finished run, or the only one of this model's name and this seed.

    Raises:
        ConfigError: where there is no such run, or several.
    """
    folder, key = Path(text).expanduser(), "intervention.source"
    if (folder / "config.yaml").is_file():
        if not is_done(folder):
            raise ConfigError(f"{key}={text} is a run that is not done: compute it to its end first")
        return folder
    runs = sorted(path.parent for path in folder.glob("*/DONE"))
    alike = runs if len(runs) == 1 else [run for run in runs if _is_of(run, model, seed)]
    if len(alike) == 1:
        return alike[0]
    if runs:
        raise ConfigError(
            f"{key}={text} holds {len(runs)} finished runs, {len(alike)} of them of model={model} and "
            f"seed={seed}: name one, such as {key}={runs[0]}"
        )
    raise ConfigError(
        f"{key}={text} holds no finished run: give the folder of a run, outputs/<name>/<run>, or of an "
        f"experiment with one (now in {Path.cwd()})"
    )


def _is_of(run: Path, model: object, seed: object) -> bool:
    told = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return label(told, "model") == model and told.get("seed") == seed


def summary_of(folder: Path) -> dict[str, Any]:
    """What a finished run found; raises DataError where its summary cannot be read."""
    try:
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} is marked DONE but its summary.json cannot be read: "
            "delete the folder to compute the run again"
        ) from error
