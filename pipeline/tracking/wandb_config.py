"""The configuration of a run in the flat form that Weights & Biases needs for filtering and grouping."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline.config.fingerprint import Config, label
from pipeline.config.secrets import is_secret, masked

_ABSENT = "none"


def run_config(config: Config, provenance: Mapping[str, Any]) -> dict[str, object]:
    """The W&B configuration of a run.

    It holds the flattened configuration, the provenance of the code, and short keys for grouping and
    filtering.
    """
    return flat(config) | flat(_code_provenance(provenance), "provenance/") | _summary_keys(config)


def flat(config: Config, prefix: str = "") -> dict[str, object]:
    """The configuration flattened to keys such as `editor/name`.

    Keys that look like secrets are dropped; secrets inside values are masked.
    """
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
    """The settings of one configuration group; empty if the group is missing or not a mapping."""
    value = config.get(group)
    return value if isinstance(value, Mapping) else {}


def job_type(config: Config) -> str:
    """The name of the editor if the intervention is `knowledge_edit` or unset, otherwise
    the name of the intervention."""
    intervention = label(config, "intervention")
    return label(config, "editor") if intervention in ("", "knowledge_edit") else intervention


def _summary_keys(config: Config) -> dict[str, object]:
    """One short string per aspect; "none" if absent.

    The aspects are editor, model, intervention, data, layers and regularizers.
    """
    labels: dict[str, object] = {
        group: label(config, group) or _ABSENT for group in ("editor", "model", "intervention", "data")
    }
    return labels | {
        "layers": _format_ranges(node(config, "layers").get("edit") or ()) or _ABSENT,
        "regularizers": ", ".join(sorted(node(config, "regularizer"))) or _ABSENT,
    }


def _format_ranges(blocks: Sequence[int]) -> str:
    """Block numbers as compact ranges, such as "1,3-5"."""
    groups = groupby(enumerate(sorted(blocks)), key=lambda pair: pair[1] - pair[0])
    consecutive_blocks = [[block for _, block in group] for _, group in groups]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in consecutive_blocks)


def _code_provenance(provenance: Mapping[str, Any]) -> dict[str, object]:
    """The provenance of the code (`git`, `python`, `packages`), without the machine and the command line."""
    return {key: provenance[key] for key in ("git", "python", "packages") if key in provenance}
