"""Overrides that add keys to a stage or regularizer that is not chosen, and so change nothing."""

import re
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

_ADDED = re.compile(r"\+{1,2}(?P<group>stage|regularizer)\.(?P<name>\w+)[.=]")


def unused(config: DictConfig, overrides: Sequence[str]) -> Iterator[str]:
    """A sentence on each of these overrides of the configuration that has no effect.

    Without a plus Hydra refuses them.
    """
    for override in overrides:
        if (match := _ADDED.match(override)) is None:
            continue
        group, name = match["group"], match["name"]
        if OmegaConf.select(config, f"{group}.{name}._target_") is None:
            yield f"{override} has no effect: {name} is not chosen; choose it with '{group}=[…,{name}]'"
