"""The fingerprint of a configuration: equal for configurations that give the same numbers."""

import hashlib
import json
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
LATER = frozenset({"gguf", "replay", "compensate", "undo", "precision"})
"""Keys that came after the first runs: without a value (null, false, an empty list) they are left out, and
those runs keep their names."""


def fingerprint(config: Config) -> str:
    """Ten hex digits that are equal for configurations that give the same numbers.

    The beginning of SHA-256 over canonical JSON: `NUMERICS` and the configuration with sorted keys, whole
    floats as integers, only the class name of each `_target_`, and without `IRRELEVANT` and `SILENT` keys.
    """
    relevant = {key: value for key, value in config.items() if key not in IRRELEVANT}
    content = {"numerics": NUMERICS, "config": _canonical(relevant)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


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
