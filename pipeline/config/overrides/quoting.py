"""Values of a command line that Hydra reads only in quotes: `data.path=~/facts.jsonl`, `name=Zürich`.

And facts in one line each, which would need two kinds of quotes: `facts="The Eiffel Tower is in|Paris|Rome"`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

SYNTAX = frozenset(",[]{}()'\"\\$")
"""Characters that mean something in Hydra's grammar: a value with one of them is left as it is."""
_FACTS = "facts="
_INTERPOLATION = re.compile(r"(\\*)\$\{")
"""The beginning of an interpolation, with the backslashes before it: an even number escapes nothing."""


def with_facts(arguments: Sequence[str]) -> list[str]:
    """The arguments with `data=lines data.facts=[…]` for every `facts=LINE`, and `edits=` their number.

    An explicit `edits=` is kept. A run is the same, and has the same fingerprint, in either way of writing.
    """
    lines = [argument.removeprefix(_FACTS) for argument in arguments if argument.startswith(_FACTS)]
    if not lines:
        return list(arguments)
    others = [argument for argument in arguments if not argument.startswith(_FACTS)]
    texts = [in_quotes(line) for line in lines]
    edits = [] if any(argument.startswith("edits=") for argument in others) else [f"edits={len(lines)}"]
    return [*others, "data=lines", f"data.facts=[{','.join(texts)}]", *edits]


def in_quotes(text: str) -> str:
    """The text as a quoted value of Hydra's grammar."""
    return QuotedString(literal(text), Quote.single).with_quotes()  # quotes do not prevent interpolation


def literal(value: Any) -> Any:
    """The value in the form that OmegaConf resolves to it: no text in it is an interpolation."""
    if isinstance(value, str):
        return _INTERPOLATION.sub(r"\1\1\\${", value)
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [literal(item) for item in value]
    return value


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
    is_plain = bool(value) and not SYNTAX & set(value) and not key.startswith("-")
    return candidate if is_plain and _is_readable(parser, candidate) else argument


def _is_readable(parser: OverridesParser, argument: str) -> bool:
    try:
        parser.parse_override(argument)
    except HydraException:
        return False
    return True
