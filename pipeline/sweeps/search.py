"""`hydra/sweeper=optuna`: the plugin that Hydra calls. The search is in trials.py; this needs no Optuna."""

from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from editors.errors import ConfigError
from pipeline.config.hydra_internals import register_plugin, unregister_replaced

if TYPE_CHECKING:
    from pipeline.sweeps.trials import Trials


class Search(Sweeper):
    """A search: Optuna proposes the values of the next runs from the results of earlier ones."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the configuration; raises ConfigError if Optuna is not installed."""
        self._trials = trials_class()(**self._settings)
        self._trials.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the search; `arguments` are the overrides of the command line."""
        self._trials.sweep(arguments)


def trials_class() -> "type[Trials]":
    """The class of the search; raises ConfigError if Optuna is not installed."""
    try:
        from pipeline.sweeps.trials import Trials
    except ImportError as error:
        raise ConfigError(f"a search needs Optuna ({error}): pip install optuna cmaes") from error
    return Trials


def install() -> None:
    """Let `hydra/sweeper=basic` and `optuna` mean the files of `conf/hydra/sweeper`."""
    register_plugin("Search", Search)
    unregister_replaced()
