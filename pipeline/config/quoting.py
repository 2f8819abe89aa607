"""Values of a command line that Hydra reads only in quotes: `data.path=~/facts.jsonl`, `name=Zürich`."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_SYNTAX = frozenset(",[]{}()'\"\\$")
"""Characters that mean something in Hydra's grammar: a value with one of them is left as it is."""


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes about each value that cannot be parsed without and can with them.

    A shell removes the quotes that a user types, and does not expand `~` after `key=`.
    """
    parser = OverridesParser.create()
    return [
        argument if _is_readable(parser, argument) else _in_quotes(parser, argument) for argument in arguments
    ]


def _in_quotes(parser: OverridesParser, argument: str) -> str:
    key, _, value = argument.partition("=")
    candidate = f"{key}='{value}'"
    is_plain = bool(value) and not _SYNTAX & set(value) and not key.startswith("-")
    return candidate if is_plain and _is_readable(parser, candidate) else argument


def _is_readable(parser: OverridesParser, argument: str) -> bool:
    try:
        parser.parse_override(argument)
    except HydraException:
        return False
    return True
