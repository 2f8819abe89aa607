"""The classes that a configuration may build: those named in `conf/` and those of plug-ins.

The configuration of a run may come from somebody else, so nothing is imported because of it alone: a
`_target_` has to be allowed first. The user allows a plug-in by naming it (`plugins=[my_module]`) or by
installing it (an entry point of the group `normscope.plugins`); a stored configuration cannot allow any.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypeGuard

from analysis.interrupts import ending_at_once
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
    """The plug-in modules that a resolved configuration names; empty if the value is invalid."""
    plugins = config.get("plugins")
    return plugins if _are_module_names(plugins) else ()


def plugin_of(target: str, plugins: Sequence[str]) -> str | None:
    """The named or installed plug-in that contains the class; None if there is none."""
    modules = (*plugins, *installed_plugins())
    return next((module for module in modules if target.startswith(f"{module}.")), None)


def is_allowed(target: str, plugins: Sequence[str]) -> bool:
    """Whether a configuration may build this class."""
    return target in own_targets() or plugin_of(target, plugins) is not None


def refusal_message(key: str, target: str) -> str:
    """The error message for a class that is not allowed, with the way to allow it."""
    close = difflib.get_close_matches(target, own_targets(), n=1, cutoff=0.9)
    hint = f" (did you mean {close[0]}?)" if close else ""
    home = target.rpartition(".")[0] if target.startswith(_PACKAGES) else target.partition(".")[0]
    is_foreign = _MODULE.fullmatch(home) and home not in sys.stdlib_module_names
    remedy = (
        f"if you trust its code, allow it with plugins=[{home}]"
        if is_foreign
        else "name a class of conf/, or of a module of your own, plugins=[my_module]"
    )
    return f"{key}={target} is neither named by a file of conf/{hint} nor part of a plug-in; {remedy}"


def plugin_problems(plugins: object) -> Iterator[str]:
    """Import all plug-ins; yields a message for each that is not a module name or cannot be imported."""
    if not _are_module_names(plugins):
        names = f"[{','.join(map(str, plugins))}]" if isinstance(plugins, list | tuple) else plugins
        yield f"plugins={names} has to be a list of modules, such as plugins=[my_module]"
        return
    for plugin in plugins:
        try:
            import_plugin(plugin)
        except LookupError as error:
            yield f"plugins=[{plugin}] {error}"


def import_target(target: str) -> Callable[..., object]:
    """The class or function of an allowed `_target_`.

    Raises:
        LookupError: with the reason, if there is no such name or its module cannot be imported.
    """
    module, _, name = target.rpartition(".")
    expected = ImportError if target in own_targets() else Exception  # a plug-in may raise anything
    try:
        with ending_at_once():
            return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise LookupError("does not exist") from error
    except expected as error:
        raise LookupError(f"cannot be imported ({import_cause(error)})") from error


def borrowed_from(target: str, callee: object, plugins: Sequence[str]) -> str:
    """The full name of a class that the module of a target only imported, and that is not allowed itself.

    For example `posix.system` in a plug-in with `from os import system`; empty for other classes.
    """
    home = f"{getattr(callee, '__module__', '')}.{getattr(callee, '__qualname__', '')}"
    is_own = home.partition(".")[0] == target.partition(".")[0]
    return "" if is_own or is_allowed(home, plugins) else home


def _are_module_names(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and all(
        isinstance(name, str) and _MODULE.fullmatch(name) for name in value
    )
