"""The fingerprint of a configuration, equal for those that give the same numbers, and the name of a run."""

import hashlib
import json
import re
from collections.abc import Mapping

Config = Mapping[str, object]
"""A resolved configuration: plain dicts, lists, strings and numbers."""

NUMERICS = 1
"""Version of the numbers: raised by every change of the code that changes a configuration's numbers."""
IRRELEVANT = frozenset(
    {"tracker", "launcher", "resume", "keep_weights", "objective", "name", "experiment", "plugins", "hydra"}
)
"""Top-level keys that say where and how a run is computed and tracked; they change no number."""
SILENT = frozenset({"save_every", "check_memory", "keep_updates", "cache"})
"""Keys that change no number at any depth."""
LATER = frozenset({"gguf", "replay", "compensate", "certify", "undo", "precision", "mask", "bits"})
"""Keys that came after the first runs: without a value (null, false, an empty list) they are left out, and
those runs keep their names."""
_ODD = re.compile(r"[^A-Za-z0-9_]+")
"""Characters of a label that a file system, a shell or the reader of a name may understand otherwise."""
_LONGEST = 24
"""Most characters of each part of a label."""


def fingerprint(config: Config) -> str:
    """Ten hex digits that are equal for configurations that give the same numbers.

    The beginning of SHA-256 over canonical JSON: `NUMERICS` and the configuration with sorted keys, whole
    floats as integers, only the class name of each `_target_`, and without `IRRELEVANT` and `SILENT` keys.
    """
    relevant = {key: value for key, value in config.items() if key not in IRRELEVANT}
    content = {"numerics": NUMERICS, "config": _canonical(relevant)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def run_name(config: Config) -> str:
    """The name of a run's folder, such as `memit-s0-3fb1395abc`: a label to read, then the fingerprint.

    The fingerprint alone identifies a run; `analysis.results.run_folder` finds it in the name.
    """
    return f"{run_label(config)}-{fingerprint(config)}"


def run_label(config: Config) -> str:
    """The editor of a run, or the intervention of one without an editor, and the seed, such as `memit-s0`.

    Computed from the values that the fingerprint is computed from, so that equal fingerprints have equal
    labels. Odd characters become `_`, and long names are cut.
    """
    values = {key: _canonical(config.get(key)) for key in ("editor", "intervention", "seed")}
    name = label(values, "editor") or label(values, "intervention") or "run"
    parts = [name] if values["seed"] is None else [name, f"s{values['seed']}"]
    return "-".join(_ODD.sub("_", part)[:_LONGEST] for part in parts)


def _canonical(value: object, key: object = None) -> object:
    if isinstance(value, Mapping):
        return {
            str(key): _canonical(item, key)
            for key, item in value.items()
            if key not in SILENT and not (key in LATER and not item)
        }
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if key == "_target_" and isinstance(value, str):
        return value.rpartition(".")[2]  # a class that moves to another module computes the same numbers
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label(config: Config, group: str) -> str:
    """The `name` inside a group of the configuration, empty if there is none."""
    node = config.get(group)
    return str(node.get("name", "")) if isinstance(node, Mapping) else ""
