"""`hydra/sweeper=optuna`: the plugin that Hydra calls. What it does is in trials.py; this needs no Optuna."""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from editors.errors import ConfigError


class Search(Sweeper):
    """Asks Optuna for the values of the next runs, and tells it what they gave."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the configuration; raises ConfigError where Optuna is not installed."""
        try:
            from pipeline.sweeps.trials import Trials
        except ImportError as error:
            raise ConfigError(
                f"hydra/sweeper=optuna needs Optuna ({error}): pip install 'normscope[optuna]'"
            ) from error
        self._trials = Trials(**self._settings)
        self._trials.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Search; `arguments` are those of the command line."""
        self._trials.sweep(arguments)


def install() -> None:
    """Let `hydra/sweeper=basic` and `optuna` mean the files of `conf/hydra/sweeper`.

    Hydra brings a configuration with the name of the first, which it would take for a schema.
    """
    # Hydra takes plugins from hydra_plugins alone, by name
    Plugins.instance().class_name_to_class["hydra_plugins.normscope.Search"] = Search
    ConfigStore.instance().repo["hydra"]["sweeper"].pop("basic.yaml", None)
