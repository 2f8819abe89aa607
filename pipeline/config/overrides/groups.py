"""Choices of configuration groups that name no file, for which Hydra has no sentence."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from pipeline.paths import CONF

_WIDTH = 110
"""Columns of the help."""


def group_problems(arguments: Sequence[str]) -> Iterator[str]:
    """Messages about overrides such as `model=null` and `editor=[memit,rome]` of a command line.

    Overrides that Hydra cannot parse are left to Hydra.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except HydraException:
            continue
        group = override.key_or_group
        if not override.is_delete() and (CONF / group).is_dir():
            yield from _problems(override, group)


def group_help(group: str, words: str) -> str:
    """A group of configurations for the help: what it is for, and its files."""
    choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    return f"{group}: {words}\n{textwrap.fill(choices, _WIDTH, initial_indent='  ', subsequent_indent='  ')}"


def _problems(override: Override, group: str) -> Iterator[str]:
    value = override.value()
    choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        names = choice if isinstance(choice, list) else [choice]
        if any(name is None or isinstance(name, int | float) for name in names):
            way = "leave it out" if group in _single() else f"choose none with {override.key_or_group}=[]"
            yield f"{override.input_line} names no file of conf/{group}: {way}, or choose {choices}"
        elif isinstance(choice, list) and group in _single():
            yield f"{override.input_line}: {group} takes one of {choices}; several runs: -m {group}=…,…"


@cache
def _single() -> frozenset[str]:
    """The groups of which one file is chosen: those whose files add no entry to others, as stages do."""
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    entries = [entry for entry in config["defaults"] if isinstance(entry, dict)]
    groups = {key.removeprefix("optional ").partition("@")[0] for entry in entries for key in entry}
    return frozenset(group for group in groups if config.get(group) != {} and not _is_global(group))


def _is_global(group: str) -> bool:
    """Whether files of the group change all of the configuration, so that several can do so in turn."""
    files = (CONF / group).glob("*.yaml")
    return any(path.read_text(encoding="utf-8").startswith("# @package _global_") for path in files)
