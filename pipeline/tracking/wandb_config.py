"""How Weights & Biases is told of a run: a flat configuration to filter by, and a summary of every metric."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from pipeline.config.fingerprint import Config, label
from pipeline.config.secrets import is_secret, masked

SUMMARIES = (
    ("edit/score", "last,max"),
    ("edit/success", "last,max"),
    ("edit/*accuracy", "last,max"),
    ("edit/*loss*", "last,min"),
    ("probe/accuracy*", "last,min"),
    ("downstream/*", "last,min"),
    ("activation/*norm_ratio", "last,min,max"),
    ("norm/*", "last,max"),
    ("lora/*", "last,max"),
    ("text/*", "last,min,max"),
    ("train/loss", "last,min"),
    ("mend/*loss", "last,min"),
    ("mend/*", "last,max"),
    ("time/*", "last,mean"),
)
"""Patterns of `area/quantity`, and what stays of such a metric when a run is over; the first that fits holds.

Of others the last value stays, under the key itself.
"""

_NOTHING = "none"


def summary_of(key: str) -> str | None:
    """What stays of a metric, such as `last,max`; None for its last value alone."""
    quantity = key.rpartition("/")[0]
    return next((kept for pattern, kept in SUMMARIES if fnmatchcase(quantity, pattern)), None)


def shown(config: Config, provenance: Mapping[str, Any]) -> dict[str, object]:
    """What a run is listed with: short keys to group and filter by, the whole configuration, the code."""
    return flat(config) | flat(_code(provenance), "provenance/") | _short(config)


def flat(config: Config, prefix: str = "") -> dict[str, object]:
    """The configuration in one level with keys like `editor/name`, without what looks like a secret."""
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
    """A group of the configuration, empty where there is none."""
    found = config.get(group)
    return found if isinstance(found, Mapping) else {}


def job_type(config: Config) -> str:
    """The editor's name, or the intervention's where no editor is at work."""
    intervention = label(config, "intervention")
    return label(config, "editor") if intervention in ("", "knowledge_edit") else intervention


def _short(config: Config) -> dict[str, object]:
    """`editor`, `model`, … as one word each."""
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
    """Which code computed the run; neither where nor how it was called."""
    return {key: provenance[key] for key in ("git", "python", "packages") if key in provenance}
