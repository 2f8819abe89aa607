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
        from analysis.results.quiet_optuna import quiet_optuna

        try:
            with quiet_optuna():
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
    """Let `hydra/sweeper=optuna` and `basic` mean the files of `conf/hydra/sweeper`.

    Hydra and its Optuna plugin bring configurations of the same names, which Hydra would take for schemas.
    """
    # Hydra takes plugins from hydra_plugins alone, by name
    Plugins.instance().class_name_to_class["hydra_plugins.normscope.Search"] = Search
    stored = ConfigStore.instance().repo["hydra"]["sweeper"]
    for name in ("basic.yaml", "optuna.yaml"):
        stored.pop(name, None)
    stored.get("sampler", {}).pop("tpe.yaml", None)
