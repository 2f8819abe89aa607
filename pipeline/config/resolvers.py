"""Functions that a configuration may call; imports are light, so that errors in overrides appear at once."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError
from pipeline.config.models.described import model_depth, model_name
from pipeline.config.models.sources import model_source
from pipeline.config.overrides.groups import group_help


def span(which: str, depth: int | None) -> list[int]:
    """Blocks of a named part of a stack: `early`, `middle`, `late` third, or `all`; never the last block.

    Raises:
        ConfigError: if the depth is not known.
    """
    if depth is None:
        raise ConfigError(f"layers={which} needs the number of blocks: set model.depth, or layers.edit=[...]")
    cuts = [depth * k // 3 for k in (1, 2)]
    parts = {
        "early": (0, cuts[0]),
        "middle": (cuts[0], cuts[1]),
        "late": (cuts[1], depth - 1),
        "all": (0, depth - 1),
    }
    first, end = parts[which]
    return list(range(first, end)) or [max(0, min(first, depth - 2))]


def variant(suffix: str, *, _root_: DictConfig) -> str:
    """The name of a variant of an experiment: the experiment's file (`default` without one) and the suffix.

    The experiment's own `name` cannot be read, because this replaces it. The file is read from Hydra's part
    of the configuration, which is removed only when a run receives it.
    """
    hydra = _root_.get("hydra") or HydraConfig.get()
    return f"{hydra.runtime.choices.get('experiment') or 'default'}_{suffix}"


def stem(path: str) -> str:
    """The name of a file without its folder and endings: `facts` for `~/data/facts.csv.gz`."""
    name = Path(path).name
    return name.lstrip(".").partition(".")[0] or name


def register_resolvers() -> None:
    """Make these functions, such as `${span:…}` and `${group_help:…}`, known to OmegaConf."""
    OmegaConf.register_new_resolver("group_help", group_help, replace=True)
    OmegaConf.register_new_resolver("variant", variant, replace=True)
    OmegaConf.register_new_resolver("model_source", model_source, replace=True)
    OmegaConf.register_new_resolver("model_name", model_name, replace=True)
    OmegaConf.register_new_resolver("model_depth", model_depth, replace=True)
    OmegaConf.register_new_resolver("span", span, replace=True)
    OmegaConf.register_new_resolver("stem", stem, replace=True)
    OmegaConf.register_new_resolver("last", lambda values: values[-1], replace=True)
