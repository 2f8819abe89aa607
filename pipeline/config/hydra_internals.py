"""All uses of the private API of Hydra and OmegaConf in this project.

`tests/pipeline/config/test_hydra_internals.py` tests each of them, so that a failing test shows which use an
upgrade broke.
"""

from collections.abc import Mapping, Sequence
from functools import cache, wraps
from typing import Any, cast

from hydra._internal import defaults_list

# re-exported, so that no other file imports from hydra._internal
from hydra._internal.config_repository import ConfigRepository as ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig, _utils, base

from pipeline.paths import CONF


def register_plugin(name: str, plugin: type) -> None:
    """Register a class of this project so that `_target_: hydra_plugins.normscope.<name>` resolves to it.

    Hydra looks up sweepers and launchers by name, only in the namespace package `hydra_plugins`.
    """
    Plugins.instance().class_name_to_class[f"hydra_plugins.normscope.{name}"] = plugin


def unregister_replaced() -> None:
    """Remove the stored configurations that files of `conf/hydra` replace: Hydra's, and those of plug-ins.

    Hydra would validate our files of the same names against them. Others stay: they can be selected.
    """
    Plugins.instance()  # registers them when it is first made, and would do so again later
    for path in (CONF / "hydra").rglob("*.yaml"):
        *groups, name = path.relative_to(CONF).parts
        stored: Any = ConfigStore.instance().repo
        for group in groups:
            stored = stored.get(group, {})
        stored.pop(name, None)


def parsed(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides of a command line, and the folder of its option `--config-dir`; None without it."""
    options, rest = get_args_parser().parse_known_args(list(arguments))
    overrides = [*options.overrides, *rest]
    return [text for text in overrides if not text.startswith("-")], options.config_dir


def combinations(overrides: list[Override]) -> list[list[str]]:
    """The Cartesian product of sweep overrides, in the order of Hydra's basic sweeper."""
    # no batch limit, so there is exactly one batch
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return [list(combination) for combination in batch]


def result_of(job: JobReturn) -> Any:
    """The return value of a job, or its exception if it failed.

    The public `JobReturn.return_value` would log and raise the exception.
    """
    return job._return_value


def use_repository(context: HydraContext, repository: type[ConfigRepository]) -> None:
    """Replace the repository class through which the context reads configuration files."""
    loader: Any = context.config_loader
    loader.repository = repository(loader.get_search_path())


def share_composition() -> None:
    """Do once in this process what is the same in every composition, which then takes half the time.

    Hydra makes a map of all choices for each list of defaults, for which only defaults with `${…}` are looked
    up in it; and OmegaConf parses each interpolation anew.
    """
    made: Any = defaults_list._create_interpolation_map
    if hasattr(made, "__wrapped__"):
        return

    @wraps(made)
    def made_if_used(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        is_used = any(default.is_interpolation() for default in defaults)
        return made(overrides, defaults, self_added) if is_used else DictConfig({})

    parse: Any = cache(base.parse)
    patched: tuple[tuple[Any, str, Any], ...] = (
        (defaults_list, "_create_interpolation_map", made_if_used),
        (base, "parse", parse),
        (_utils, "parse", parse),
    )
    for module, name, function in patched:
        setattr(module, name, function)


def with_search_path(context: HydraContext, path: ConfigSearchPath) -> HydraContext:
    """A copy of the context that reads configuration files from `path`."""
    loader = cast(Any, type(context.config_loader))(path)
    return HydraContext(config_loader=loader, callbacks=context.callbacks)


def singletons() -> dict[type, Any]:
    """Hydra's singletons in this process, except the plug-in registry, which each process builds itself."""
    return {kind: instance for kind, instance in Singleton._instances.items() if kind is not Plugins}


def restore_singletons(state: Mapping[type, Any]) -> None:
    """Install the singletons captured by `singletons()` in another process."""
    Singleton._instances.update(state)
