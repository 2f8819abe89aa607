"""The objects of configuration nodes: `_target_` names the class, all other keys are its arguments.

Hydra's `instantiate` is not used, because it gives other keys a meaning as well (`_args_`, `_partial_`) and
resolves interpolations once more: a text of a stored configuration could read the environment.
"""

from collections.abc import Mapping
from typing import Any

from editors.text_files import local_path
from pipeline.config.allowed_classes import import_target


def instance(node: Any) -> Any:
    """The object of a node that has no problems (`node_problems`), with the objects of all nodes below it.

    `~/` at the beginning of a text becomes the home folder.
    """
    if isinstance(node, Mapping):
        values = {key: instance(value) for key, value in node.items() if key != "_target_"}
        return import_target(node["_target_"])(**values) if "_target_" in node else values
    if isinstance(node, list):
        return [instance(value) for value in node]
    # only here, so that the name of a run is the same on every machine
    return str(local_path(node)) if isinstance(node, str) and node.startswith("~/") else node
