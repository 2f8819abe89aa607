"""Parts of a configuration for commands that do not compute a run."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from editors.errors import ConfigError
from pipeline.config.hydra_internals import unregister_replaced
from pipeline.config.quoting import quoted
from pipeline.config.resolvers import register_resolvers
from pipeline.paths import CONF


def composed(overrides: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    """The resolved nodes of some groups of the configuration with these overrides.

    Raises ConfigError for an override that Hydra refuses, and for a value that is missing.
    """
    register_resolvers()
    unregister_replaced()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", quoted(overrides))
        return {
            group: OmegaConf.to_container(config[group], resolve=True, throw_on_missing=True)
            for group in groups
        }
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigError(f"{str(error).splitlines()[0]}{cause}") from error
