"""Functions that a configuration may call; light, so that a misspelt override is answered at once."""

import math

from omegaconf import OmegaConf

from editors.errors import ConfigError


def span(which: str, depth: int | None) -> list[int]:
    """Blocks of a named part of a stack: `early`, `middle`, `late` third, or `all`.

    Raises:
        ConfigError: where the depth is not known.
    """
    if depth is None:
        raise ConfigError(f"layers={which} needs the number of blocks: set model.depth, or layers.edit=[...]")
    third = depth / 3
    parts = {
        "early": (0, third),
        "middle": (third, 2 * third),
        "late": (2 * third, depth),
        "all": (0, depth),
    }
    first, end = parts[which]
    return list(range(math.floor(first), max(math.floor(end), math.floor(first) + 1)))


def register_resolvers() -> None:
    """Make `${span:early,${model.depth}}` and `${last:${layers.published}}` known to OmegaConf."""
    OmegaConf.register_new_resolver("span", span, replace=True)
    OmegaConf.register_new_resolver("last", lambda values: values[-1], replace=True)
