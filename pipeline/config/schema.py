"""The configuration of a run, resolved to plain values; without torch, which finished runs do not need."""

import copy
import re
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from editors.errors import ConfigError
from pipeline.config.models.missing import check_complete

ResolvedConfig = dict[str, Any]
"""A configuration with all interpolations filled in: plain dicts, lists, strings and numbers."""

KEYS = (
    "name seed edits batch_size steps model training moments editor regularizer layers data text "
    "intervention stage objective tracker launcher experiment resume keep_weights plugins"
).split()
"""Top level of every configuration."""
USED = ("edits", "batch_size", "steps", "editor", "regularizer", "moments", "layers")
"""Keys that an intervention need not use; unused keys do not distinguish runs."""
NO_LAYERS: ResolvedConfig = {"edit": []}
"""The layers that stages read if the intervention chooses none."""
_REFERENCE = re.compile(r"\$\{\s*(\w+)\s*[.}\[]")
"""An interpolation of the top level such as `${steps}` or `${layers.edit}`; the first key of its path."""


def resolved(config: DictConfig) -> ResolvedConfig:
    """The plain values of a composed configuration, without the keys that its run does not use.

    `config` itself is not changed.

    Raises:
        ConfigError: for a model–editor pair without values, or an interpolation of a missing key.
    """
    used = _used(config)
    reduced = _reduced(config, used)
    if "layers" in used:
        check_complete(reduced)
    try:
        plain = cast(ResolvedConfig, OmegaConf.to_container(reduced, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    plain["training"] = None  # the intervention holds all values that it uses
    for key in KEYS:
        plain.setdefault(key, None)
    return plain


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration as passed to a run: without Hydra's own part."""
    copied = config.copy()
    with read_write(copied), open_dict(copied):
        copied["name"] = copied.get("name")  # may refer to Hydra's own part
        copied.pop("hydra", None)
    return copied


def _used(config: DictConfig) -> set[str]:
    """`intervention`, and the keys of `USED` to which it refers directly or through other keys."""
    nodes = cast(dict[str, object], OmegaConf.to_container(config, resolve=False))
    references = {key: set(_REFERENCE.findall(str(node))) for key, node in nodes.items()}
    used: set[str] = set()
    new = {"intervention"}
    while new:
        used |= new
        new = set().union(*(references.get(key, ()) for key in new)) & set(USED) - used
    return used


def _reduced(config: DictConfig, used: set[str]) -> DictConfig:
    """A copy without unused keys and without regularizers and stages that have no class.

    Experiments set values of regularizers and stages even if a run does not use these.
    """
    reduced = copy.deepcopy(config)
    OmegaConf.set_struct(reduced, False)
    for key in set(USED) - used:
        reduced[key] = NO_LAYERS if key == "layers" else None
    for group in ("regularizer", "stage"):
        nodes = reduced.get(group)
        if not isinstance(nodes, DictConfig):
            continue  # values that cannot be regularizers are reported later, with all other problems
        for name, node in list(nodes.items()):
            if isinstance(node, DictConfig) and "_target_" not in node:
                del nodes[name]
    return reduced
