"""Which run a configuration describes: configurations that give the same numbers are the same run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from editors.errors import ConfigError, DataError

Config = Mapping[str, object]
"""A resolved configuration: plain dicts, lists, strings and numbers."""

NUMERICS = 1
"""Version of the numbers: raised with every change of the code after which a configuration gives others."""
IRRELEVANT = frozenset(
    {"tracker", "launcher", "resume", "keep_weights", "objective", "name", "experiment", "hydra"}
)
"""Top-level keys that say where and how a run is computed and watched, not what comes out."""
SILENT = frozenset({"save_every", "check_memory", "keep_updates"})
"""Keys at any depth that change no number either."""


def fingerprint(config: Config) -> str:
    """Ten hex digits that are equal for configurations that give the same numbers.

    The beginning of SHA-256 over the canonical JSON: `NUMERICS`, and the keys sorted, whole floats as
    integers, a `_target_` by the name of its class alone, without the keys of `IRRELEVANT` and `SILENT`.
    """
    kept = {key: value for key, value in config.items() if key not in IRRELEVANT}
    relevant = {"numerics": NUMERICS, "config": _canonical(kept)}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]


def _canonical(value: object, key: object = None) -> object:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, key) for key, item in value.items() if key not in SILENT}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if key == "_target_" and isinstance(value, str):
        return value.rpartition(".")[2]  # a class that moves to another module computes the same numbers
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label(config: Config, group: str) -> str:
    """The `name` inside a group of the configuration, empty where there is none."""
    node = config.get(group)
    return str(node.get("name", "")) if isinstance(node, Mapping) else ""


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
    """The folder of a finished run that `intervention.run` names: itself, or one of its experiment.

    Of an experiment it is the only finished run, or the only one of this model's name and this seed.

    Raises:
        ConfigError: where there is no such run, or several.
    """
    folder, key = Path(text).expanduser(), "intervention.run"
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
