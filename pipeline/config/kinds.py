"""Whether the class of a configuration node is of the kind that is expected at its place."""

import inspect
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, get_args, get_type_hints

from typing_extensions import get_protocol_members, is_protocol

_PLAIN = (NoneType, bool, int, float, str)


def kinds_in(hint: object) -> list[type]:
    """The classes of objects that a type hint allows, at any depth: those of `Mapping[str, Stage] | None`.

    Empty if it allows any object.
    """
    parts = list(_leaves(hint))
    return [] if object in parts or Any in parts else [part for part in parts if inspect.isclass(part)]


def is_of(callee: Callable[..., object], kinds: list[type]) -> bool:
    """Whether the object that a class or function makes is of one of these kinds."""
    product = callee if inspect.isclass(callee) else get_type_hints(callee).get("return")
    return not kinds or not inspect.isclass(product) or any(_fits(product, kind) for kind in kinds)


def _leaves(hint: object) -> Iterator[object]:
    """The parts of a hint that have no parts themselves, without plain values."""
    arguments = get_args(hint)
    if not arguments and hint not in _PLAIN:
        yield hint
    for argument in arguments:
        yield from _leaves(argument)


def _fits(made: type, kind: type) -> bool:
    if not is_protocol(kind):
        return issubclass(made, kind)
    # a field without a default is no attribute of its class
    fields = {name for base in made.__mro__ for name in vars(base).get("__annotations__", ())}
    return get_protocol_members(kind) <= {*dir(made), *fields}
