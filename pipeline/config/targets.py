"""Which classes a configuration may build: those that `conf/` names, and those of plug-ins.

The configuration of a run may come from somebody else, so its words import nothing: a `_target_` has to be
allowed first. The user allows a plug-in by naming it (`plugins=[my_module]`) or by installing it (an entry
point of the group `normscope.plugins`); the stored configuration of a run allows none.
"""

import difflib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypeGuard

from analysis.plugins import import_cause, import_plugin, installed_plugins
from pipeline.paths import CONF

_PACKAGES = ("analysis.", "editors.", "pipeline.")
_TARGET = re.compile(r"\b_target_:\s*[\"']?([\w.]+)")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@cache
def own_targets() -> frozenset[str]:
    """The classes and functions of this project that its configuration files name as `_target_`."""
    texts = (path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml"))
    named = {target for text in texts for target in _TARGET.findall(text)}
    return frozenset(target for target in named if target.startswith(_PACKAGES))


def plugins_of(config: Mapping[str, object]) -> Sequence[str]:
    """The modules that a resolved configuration names as plug-ins; empty if `build` refuses the key."""
    plugins = config.get("plugins")
    return plugins if _are_module_names(plugins) else ()


def plugin_of(target: str, plugins: Sequence[str]) -> str | None:
    """The plug-in in which a class lies, of those that are named or installed."""
    modules = (*plugins, *installed_plugins())
    return next((module for module in modules if target.startswith(f"{module}.")), None)


def is_allowed(target: str, plugins: Sequence[str]) -> bool:
    """Whether a configuration may build this class."""
    return target in own_targets() or plugin_of(target, plugins) is not None


def refusal(key: str, target: str) -> str:
    """The sentence about a class that may not be built, with the way to allow it."""
    close = difflib.get_close_matches(target, own_targets(), n=1, cutoff=0.9)
    hint = f" (did you mean {close[0]}?)" if close else ""
    home = target.rpartition(".")[0] if target.startswith(_PACKAGES) else target.partition(".")[0]
    return (
        f"{key}={target} is neither named by a file of conf/{hint} nor part of a plug-in; "
        f"if you trust its code, allow it with plugins=[{home}]"
    )


def plugin_problems(plugins: object) -> Iterator[str]:
    """Sentences about plug-ins that are not module names or cannot be imported; imports the others."""
    if not _are_module_names(plugins):
        yield f"plugins={plugins} has to be a list of modules, such as plugins=[my_module]"
        return
    for plugin in plugins:
        try:
            import_plugin(plugin)
        except LookupError as error:
            yield f"plugins=[{plugin}] {error}"


def import_target(target: str) -> Callable[..., object]:
    """The class or function of an allowed `_target_`.

    Raises:
        LookupError: with the reason if there is none of this name or its module cannot be imported.
    """
    module, _, name = target.rpartition(".")
    foreseen = ImportError if target in own_targets() else Exception  # whatever the code of a plug-in raises
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise LookupError("does not exist") from error
    except foreseen as error:
        raise LookupError(f"cannot be imported ({import_cause(error)})") from error


def _are_module_names(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and all(
        isinstance(name, str) and _MODULE.fullmatch(name) for name in value
    )
