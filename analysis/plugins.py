"""Modules of users: those named on a command line, and those that installed packages offer."""

import importlib
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

ENTRY_POINTS = "normscope.plugins"
"""Group of entry points under which an installed package offers a module."""


@cache
def installed_plugins() -> tuple[str, ...]:
    """The modules that installed packages offer as plug-ins."""
    return tuple(sorted({point.module for point in entry_points(group=ENTRY_POINTS)}))


def import_plugin(name: str) -> ModuleType:
    """Import the module of a plug-in.

    Raises:
        LookupError: with the reason and the way out if it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever its code raises
        reason = f"cannot be imported ({import_cause(error)}): install it or set PYTHONPATH"
        raise LookupError(reason) from error


def import_cause(error: Exception) -> str:
    """Type and first line of an error that an import raised."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
