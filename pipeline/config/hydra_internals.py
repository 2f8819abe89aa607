"""All uses of Hydra's undocumented interface in this project.

`tests/pipeline/config/test_hydra_internals.py` tests each of them, so that a failure names the piece that an
upgrade has broken.
"""

from collections.abc import Mapping
from typing import Any, cast

from hydra._internal.config_repository import ConfigRepository as ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.types import HydraContext


def register_plugin(name: str, plugin: type) -> None:
    """Let `hydra_plugins.normscope.<name>` in a `_target_` mean a class of this project.

    Hydra looks up sweepers and launchers by name, only in the namespace package `hydra_plugins`.
    """
    Plugins.instance().class_name_to_class[f"hydra_plugins.normscope.{name}"] = plugin


def forget_stored_sweeper(name: str) -> None:
    """Remove Hydra's own `hydra/sweeper/<name>`: it would serve as a schema for the file of the same name."""
    ConfigStore.instance().repo["hydra"]["sweeper"].pop(f"{name}.yaml", None)


def combinations(overrides: list[Override]) -> list[list[str]]:
    """All combinations of overrides with several values, in the order of Hydra's basic sweeper."""
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return [list(combination) for combination in batch]


def result_of(job: JobReturn) -> Any:
    """The value or the error of a job; the public `return_value` prints and raises the error."""
    return job._return_value


def use_repository(context: HydraContext, repository: type[ConfigRepository]) -> None:
    """Let the context read its configuration files through another repository."""
    loader: Any = context.config_loader
    loader.repository = repository(loader.get_search_path())


def with_search_path(context: HydraContext, path: ConfigSearchPath) -> HydraContext:
    """The same context with configuration files read from another path."""
    loader = cast(Any, type(context.config_loader))(path)
    return HydraContext(config_loader=loader, callbacks=context.callbacks)


def singletons() -> dict[type, Any]:
    """Hydra's state of this process, without the plugins, which each process loads itself."""
    return {kind: instance for kind, instance in Singleton._instances.items() if kind is not Plugins}


def restore_singletons(state: Mapping[type, Any]) -> None:
    """Set Hydra's state to that of another process."""
    Singleton._instances.update(state)
