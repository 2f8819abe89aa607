"""The configuration of a run as Weights & Biases shows it: flat, to filter and group by."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline.config.fingerprint import Config, label
from pipeline.config.secrets import is_secret, masked

_NOTHING = "none"


def run_config(config: Config, provenance: Mapping[str, Any]) -> dict[str, object]:
    """Short keys to group and filter by, the whole configuration and the code, for a W&B run."""
    return flat(config) | flat(_code(provenance), "provenance/") | _short(config)


def flat(config: Config, prefix: str = "") -> dict[str, object]:
    """The configuration in one level with keys like `editor/name`, without secrets."""
    leaves: dict[str, object] = {}
    for key, value in config.items():
        if is_secret(key):
            continue
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}/")
        else:
            leaves[f"{prefix}{key}"] = masked(value)
    return leaves


def node(config: Config, group: str) -> Mapping[str, Any]:
    """A group of the configuration; empty if there is none."""
    value = config.get(group)
    return value if isinstance(value, Mapping) else {}


def job_type(config: Config) -> str:
    """The name of the editor; that of the intervention if it uses no editor."""
    intervention = label(config, "intervention")
    return label(config, "editor") if intervention in ("", "knowledge_edit") else intervention


def _short(config: Config) -> dict[str, object]:
    """Short values of `editor`, `model`, `layers`, …: one word or list each."""
    named: dict[str, object] = {
        group: label(config, group) or _NOTHING for group in ("editor", "model", "intervention", "data")
    }
    return named | {
        "layers": _spans(node(config, "layers").get("edit") or ()) or _NOTHING,
        "regularizers": ", ".join(sorted(node(config, "regularizer"))) or _NOTHING,
    }


def _spans(blocks: Sequence[int]) -> str:
    """Blocks as text, such as "1,3-5"."""
    runs = groupby(enumerate(sorted(blocks)), key=lambda pair: pair[1] - pair[0])
    ends = [[block for _, block in run] for _, run in runs]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in ends)


def _code(provenance: Mapping[str, Any]) -> dict[str, object]:
    """The code that computed the run, without its machine and its command line."""
    return {key: provenance[key] for key in ("git", "python", "packages") if key in provenance}
