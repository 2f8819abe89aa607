"""What a sweep is made of, without a command line."""

from collections.abc import Sequence

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from pipeline.config.resolvers import register_resolvers
from pipeline.sweeps import search
from tests.paths import CONF


def context_of(overrides: Sequence[str]) -> tuple[HydraContext, DictConfig]:
    """What Hydra hands to its plugins: the means to compose, and the configuration that all jobs share."""
    version.setbase("1.3")
    search.install()
    register_resolvers()
    path = create_automatic_config_search_path(calling_file=None, calling_module=None, config_path=str(CONF))
    loader = ConfigLoaderImpl(path)
    config = loader.load_configuration("config", overrides=list(overrides), run_mode=RunMode.MULTIRUN)
    return HydraContext(config_loader=loader, callbacks=Callbacks()), config
