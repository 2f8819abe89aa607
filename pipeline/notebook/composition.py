"""Composes a configuration outside of the command line, for Python."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from editors.errors import ConfigError
from pipeline.config.overrides.groups import group_problems
from pipeline.config.overrides.quoting import literal
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import ResolvedConfig, resolved
from pipeline.paths import CONF


def composed(choices: Sequence[str], values: Mapping[str, Any]) -> ResolvedConfig:
    """The configuration with these choices, such as `editor=memit`, and these values in place of its own.

    A text of `values` stands for itself: `${` begins no interpolation there.

    Raises:
        ConfigError: for a choice or a key that there is not, and for a model–editor pair without values.
    """
    register_resolvers()
    if problems := list(group_problems(choices)):
        raise ConfigError("\n".join(problems))
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [*choices, "~hydra/sweeper"])  # Hydra's own of that name would warn
        OmegaConf.set_struct(config, False)  # unknown keys are reported with all other problems
        merged = cast(DictConfig, OmegaConf.merge(config, literal(values)))
        return resolved(merged, in_python=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def check_choice(group: str, name: str) -> None:
    """Raise a ConfigError if no file of the group has this name."""
    if name not in (names := choices_of(group)):
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"
        raise ConfigError(f"{group}={name} names no file of conf/{group}: {hint}")


def choices_of(group: str) -> list[str]:
    """The names of the files of a group of `conf/`."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
