"""The configuration of a run as plain values; light, so that a run which is done already needs no torch."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from editors.errors import ConfigError

Plain = dict[str, Any]
"""A resolved configuration."""

KEYS = (
    "name seed edits batch_size steps model training moments editor regularizer layers data text "
    "intervention stage objective tracker launcher experiment resume keep_weights plugins"
).split()
"""Top level of every configuration."""
USED = ("edits", "batch_size", "steps", "editor", "regularizer", "moments", "layers")
"""Keys that an intervention may do without; a run is not told apart by what it does not use."""
NO_LAYERS: Plain = {"edit": []}
"""What stages read where an intervention chooses no layers."""


def resolved(config: DictConfig) -> Plain:
    """The configuration as plain values, interpolations filled in.

    Raises:
        ConfigError: for a model–editor pair without values, or an interpolation that leads nowhere.
    """
    used = _used(config)
    if "layers" in used:
        _check_published(config)
    _drop(config, used)
    try:
        plain = cast(Plain, OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    plain["training"] = None  # the intervention holds what it takes from there
    for key in KEYS:
        plain.setdefault(key, None)
    return plain


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration without Hydra's own part, as a run gets it."""
    copied = config.copy()
    with read_write(copied), open_dict(copied):
        copied["name"] = copied.get("name")  # may be made from what Hydra tells
        copied.pop("hydra", None)
    return copied


def _check_published(config: DictConfig) -> None:
    """A pair without published values has no layers to edit."""
    layers = config.get("layers")
    if layers is None or not OmegaConf.is_missing(layers, "published"):
        return
    node = OmegaConf.to_container(layers, resolve=False)
    if isinstance(node, dict) and "layers.published" in str(node.get("edit")):
        model, editor = config.model.name, config.editor.name
        raise ConfigError(
            f"there are no values for editor={editor} on model={model}: give layers.edit=[...] and the "
            f"editor's constants on the command line, or write conf/hparams/{model}_{editor}.yaml"
        )


def _used(config: DictConfig) -> set[str]:
    """Which of `USED` the intervention refers to, itself or through what it refers to."""
    texts = {key: str(OmegaConf.to_container(config, resolve=False)[key]) for key in config}  # pyright: ignore
    found: set[str] = set()
    new = {"intervention"}
    while new:
        found |= new
        new = {key for key in USED if any(f"${{{key}" in texts.get(one, "") for one in new)} - found
    return found


def _drop(config: DictConfig, used: set[str]) -> None:
    """What the intervention does not use, and values for regularizers and stages that were not chosen."""
    OmegaConf.set_struct(config, False)
    for key in set(USED) - used:
        config[key] = NO_LAYERS if key == "layers" else None
    for group in ("regularizer", "stage"):
        chosen = config.get(group)
        if not isinstance(chosen, DictConfig):
            continue  # what cannot be a regularizer is told when all is checked
        for name, node in list(chosen.items()):
            if isinstance(node, DictConfig) and "_target_" not in node:
                del chosen[name]
