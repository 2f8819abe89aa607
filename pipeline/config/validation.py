"""Problems of a configuration node, found before anything is built from it; imports no torch."""

import difflib
import inspect
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from beartype import BeartypeConf
from beartype.door import is_bearable

from pipeline.config.allowed_classes import borrowed_from, import_target, is_allowed, refusal_message
from pipeline.config.kinds import is_of, kinds_in
from pipeline.config.schema import ResolvedConfig

_HOME = {
    ".editor": "editor",
    "tracing.source": "data",
    "editor.regularizers": "regularizer",
    "editor.moments": "moments",
    "moments.corpus": "model.corpus",
}
"""Ends of paths that repeat another node, and the path at which the user wrote it."""
SEEDS = 2**32
"""Random generators take seeds from 0 to below this."""
_TOWER = BeartypeConf(is_pep484_tower=True)


def node_problems(
    path: str, node: object, plugins: Sequence[str] = (), *, hint: object = object
) -> Iterator[str]:
    """Messages about a node and everything below it.

    `plugins` are the modules that the user allows now, `hint` is the type that is expected of the node.
    """
    path = next((home for end, home in _HOME.items() if path.endswith(end)), path)
    if isinstance(node, dict):
        hints: Mapping[str, object] = dict.fromkeys(node, hint)
        if "_target_" in node:
            callee = yield from _target_problems(path, node, plugins, hint)
            hints = {} if callee is None else _hints(callee)
        for key, value in node.items():
            yield from node_problems(f"{path}.{key}", value, plugins, hint=hints.get(key, object))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from node_problems(f"{path}.{i}", value, plugins, hint=hint)


def _target_problems(
    path: str, node: ResolvedConfig, plugins: Sequence[str], hint: object
) -> Generator[str, None, Callable[..., object] | None]:
    """Messages about the class of a node and its arguments; returns the class if it may be used."""
    target = str(node["_target_"])
    if not is_allowed(target, plugins):
        yield refusal_message(f"{path}._target_", target)
        return None
    try:
        callee = import_target(target)
    except LookupError as error:
        yield f"{path}._target_={target} {error.args[0]}"
        return None
    if home := borrowed_from(target, callee, plugins):
        yield f"{path}._target_={target} is {home}, which is no part of that module"
        return None
    kinds = kinds_in(hint)
    if not kinds:
        yield f"{path}._target_={target} is a class, but {path} has to be {_type_name(hint)}"
    elif not is_of(callee, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        yield f"{path}._target_={target} is no {names}, which has to be there"
    yield from _argument_problems(path, node, callee)
    return callee


def _hints(callee: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(callee.__init__ if inspect.isclass(callee) else callee)


def _argument_problems(path: str, node: ResolvedConfig, callee: Callable[..., object]) -> Iterator[str]:
    target = node["_target_"]
    parameters = inspect.signature(callee).parameters
    hints = _hints(callee)
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in parameters:
            yield unknown_key_message(f"{path}.{key}", [f"{path}.{name}" for name in parameters], target)
        elif value == "???":
            yield f"{path}.{key} has no value; set {path}.{key}=..."
        elif _is_plain(value):
            hint = hints.get(key, object)
            node[key] = value = _as_float(value, hint)
            if not is_bearable(value, hint, conf=_TOWER) or _is_confused(value, hint):
                yield f"{path}.{key}={value} has to be {_type_name(hint)}"
            elif not _is_finite(value):
                yield f"{path}.{key}={value} has to be finite"
            elif key == "seed" and isinstance(value, int) and not 0 <= value < SEEDS:
                yield f"{path}.{key}={value} has to be at least 0 and below 2**32"
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in node:
            yield f"{path}.{name} has no value; set +{path}.{name}=..."


def _is_plain(value: object) -> bool:
    """Whether the value contains no node that has to be built first."""
    if isinstance(value, Mapping):
        return False
    return not isinstance(value, list) or all(not isinstance(item, Mapping) for item in value)


def _is_confused(value: object, hint: object) -> bool:
    """Whether the value has the type only because true is the number 1 to Python, or a text a sequence."""
    members = _members(hint)
    if {object, Any}.intersection(members):
        return False
    elements = [get_args(each)[0] for each in members if get_origin(each) is Sequence]
    if isinstance(value, list):
        return bool(elements) and any(all(_is_confused(item, each) for each in elements) for item in value)
    if isinstance(value, bool):
        return bool not in members
    return (
        isinstance(value, str)
        and bool(elements)
        and all(get_origin(each) is Sequence or not is_bearable(value, each) for each in members)
    )


def _members(hint: object) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    is_union = get_origin(hint) in (Union, UnionType)
    return tuple(each for part in get_args(hint) for each in _members(part)) if is_union else (hint,)


def _is_finite(value: object) -> bool:
    """Whether no number in a value is NaN or infinite."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _as_float(value: object, hint: object) -> object:
    """The value as a float if the constructor expects one: YAML writes 1.0 as 1 and reads 1e-3 as text."""
    if hint in (float, float | None) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _type_name(hint: object) -> str:
    members = _members(hint)
    if any(get_origin(each) is Literal for each in members):
        choices = [get_args(each) if get_origin(each) is Literal else [_type_name(each)] for each in members]
        return f"one of {', '.join(str(choice) for each in choices for choice in each)}"
    if hint is NoneType:
        return "null"
    return getattr(hint, "__name__", str(hint)).removeprefix("typing.")


def unknown_key_message(key: str, known: Sequence[str], owner: str) -> str:
    """The error message for a key that does not exist, with the key that was probably meant."""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"
    return f"{key} is not a key of {owner}; {hint}"
