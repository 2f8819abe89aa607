"""All uses of the private API of Hydra and OmegaConf in this project.

`tests/pipeline/config/test_hydra_internals.py` tests each of them, so that a failing test shows which use an
upgrade broke.
"""

import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache, wraps
from typing import Any, cast

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl

# re-exported, so that no other file imports from hydra._internal
from hydra._internal.config_repository import ConfigRepository as ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigResult
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
    """Do once in this process what is the same in several compositions.

    OmegaConf parses each interpolation again, and Hydra makes a map of all choices for each list of defaults,
    for which only defaults with `${…}` are looked up in it. Where files do not change, that is, where the
    repository has a method `kept`, compositions with the same choices of groups differ in values only, which
    Hydra sets at last: what precedes them is nine tenths of its time and is kept.
    """
    patches = (
        (base, "parse", cache),
        (_utils, "parse", lambda _: base.parse),  # the same cache
        (defaults_list, "_create_interpolation_map", _made_if_used),
        (config_loader_impl, "create_defaults_list", _kept_by_choices),
        (ConfigLoaderImpl, "_load_single_config", _kept_by_default),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", _kept_by_defaults),
    )
    for owner, name, share in patches:
        original = getattr(owner, name)
        if not hasattr(original, "__wrapped__"):
            setattr(owner, name, share(original))


def _made_if_used(make: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    @wraps(make)
    def made(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        is_used = any(default.is_interpolation() for default in defaults)
        return make(overrides, defaults, self_added) if is_used else DictConfig({})

    return made


def _kept_by_choices(make: Callable[..., DefaultsList]) -> Callable[..., DefaultsList]:
    """Overrides of values do not change which files are read: the list is that of the other overrides."""

    @wraps(make)
    def made(repo: Any, config_name: Any, overrides_list: list[Override], **options: bool) -> DefaultsList:
        values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
        choices = tuple(each.input_line for each in overrides_list if each not in values)
        key = config_name, choices, *options.items()
        kept = _kept(repo, key, lambda: make(repo, config_name, overrides_list, **options))
        return replace(kept, config_overrides=values)

    return made


def _kept_by_default(load: Callable[..., ConfigResult]) -> Callable[..., ConfigResult]:
    @wraps(load)
    def loaded(self: ConfigLoaderImpl, default: ResultDefault, repo: Any) -> ConfigResult:
        return _copied(repo, str(default), lambda: load(self, default, repo))

    return loaded


def _kept_by_defaults(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    @wraps(compose)
    def composed(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        return _copied(repo, str(defaults), lambda: compose(self, defaults, repo))

    return composed


def _copied(repo: Any, key: str, make: Callable[[], Any]) -> Any:
    """What is kept under the key, copied by a pickle (faster than a deep copy), since Hydra changes it."""
    return pickle.loads(_kept(repo, key, lambda: pickle.dumps(make())))


def _kept(repo: Any, key: Hashable, make: Callable[[], Any]) -> Any:
    kept = getattr(repo.delegate, "kept", None)
    return make() if kept is None else kept(key, make)


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
