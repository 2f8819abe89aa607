"""The objects of configuration nodes: `_target_` names the class, all other keys are its arguments.

Hydra's `instantiate` is not used, because it gives other keys a meaning as well (`_args_`, `_partial_`) and
resolves interpolations once more: a text of a stored configuration could read the environment.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.config.allowed_classes import import_target


def instance(node: Any) -> Any:
    """The object of a node that has no problems (`node_problems`), with the objects of all nodes below it."""
    if isinstance(node, Mapping):
        values = {key: instance(value) for key, value in node.items() if key != "_target_"}
        return import_target(node["_target_"])(**values) if "_target_" in node else values
    return [instance(value) for value in node] if isinstance(node, list) else node
