"""Maps `_target_`s in the configurations of older versions to the current modules of the classes."""

from collections.abc import Mapping
from typing import Any

FORMER = {
    "editors.model.loading.Checkpoint": "editors.models.loading.Checkpoint",
    "pipeline.builtin.BuiltInCheckpoint": "pipeline.data.world.builtin.BuiltInCheckpoint",
    "pipeline.corpora.FactText": "pipeline.data.corpora.FactText",
    "pipeline.corpora.HubText": "pipeline.data.corpora.HubText",
    "pipeline.corpora.TextFile": "pipeline.data.corpora.TextFile",
    "pipeline.corpora.WorldText": "pipeline.data.world.datasets.WorldText",
    "pipeline.data.CounterFact": "pipeline.data.sources.CounterFact",
    "pipeline.data.WorldFacts": "pipeline.data.world.datasets.WorldFacts",
    "pipeline.data.ZsRE": "pipeline.data.sources.ZsRE",
}
"""Classes of the only node that is built from an old configuration: the model, with corpus and facts."""


def with_current_targets(node: Any) -> Any:
    """A copy of a configuration with the `_target_`s of this version."""
    if isinstance(node, Mapping):
        return {
            key: FORMER.get(value, value)
            if key == "_target_" and isinstance(value, str)
            else with_current_targets(value)
            for key, value in node.items()
        }
    return [with_current_targets(item) for item in node] if isinstance(node, list) else node


def comparable(key: str, value: str) -> str:
    """A setting as two runs are compared by it: a `_target_` by the name of its class, wherever that lies."""
    return value.rpartition(".")[2] if key.rpartition(".")[2] == "_target_" else value
