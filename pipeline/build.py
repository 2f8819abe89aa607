"""From a composed configuration to the objects of a run; every problem is found and reported at once.

Nothing is instantiated before all of this holds: every `_target_` belongs to this project, every key is an
argument of its constructor and of the right type, every argument without a default has a value.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args, get_origin, get_type_hints

from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from analysis.signatures import Judge
from analysis.stage import Stage
from editors.errors import ConfigError, NormscopeError
from pipeline.configuration import KEYS, NO_LAYERS, Plain
from pipeline.experiment import Parts

ALLOWED = ("analysis.", "editors.", "pipeline.")
"""A configuration can build nothing but objects of this project."""
RESUME = ("auto", "never", "force")
_HOME = {
    ".editor": "editor",
    "editor.regularizers": "regularizer",
    "editor.moments": "moments",
    "moments.corpus": "model.corpus",
}
"""Where a user wrote what also stands elsewhere."""
_TOWER = BeartypeConf(is_pep484_tower=True)


def build(plain: Plain) -> Parts:
    """Check everything, then make the objects.

    Raises:
        ConfigError: with all problems, one a line.
    """
    # an editor is part of its intervention, and regularizers of their editor: one mistake, one line
    problems = dict.fromkeys(_problems(plain))
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        observers = [instantiate(node, _convert_="all") for node in plain["stage"].values()]
        return Parts(
            model=instantiate(plain["model"], _convert_="all"),
            data=instantiate(plain["data"], _convert_="all"),
            intervention=instantiate(plain["intervention"], _convert_="all"),
            stages=[observer for observer in observers if isinstance(observer, Stage)],
            judges=[observer for observer in observers if isinstance(observer, Judge)],
            tracker=instantiate(plain["tracker"], _convert_="all"),
        )
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, NormscopeError):
            raise cause from error
        raise


def _problems(plain: Plain) -> Iterator[str]:
    for key in plain:
        if key not in KEYS:
            yield _unknown(key, KEYS, "a configuration")
    if isinstance(plain["seed"], int) and not 0 <= plain["seed"] < 2**32:
        yield f"seed={plain['seed']} has to be at least 0 and below 2**32"
    for key in ("seed", "edits", "batch_size"):
        if plain[key] is None and key != "seed":
            continue
        if not isinstance(plain[key], int) or isinstance(plain[key], bool):
            yield f"{key}={plain[key]} has to be a whole number"
    threads = plain["launcher"].get("threads")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        yield f"launcher.threads={threads} has to be a positive whole number, or null"
    if plain["resume"] not in RESUME:
        yield f"resume={plain['resume']} has to be one of {', '.join(RESUME)}"
    for group in ("model", "data", "editor", "regularizer", "intervention", "stage", "tracker"):
        yield from _node_problems(group, plain[group])
    if plain["layers"] != NO_LAYERS:
        yield from _layer_problems(plain)


def _layer_problems(plain: Plain) -> Iterator[str]:
    edit, depth = plain["layers"]["edit"], plain["model"].get("depth")
    if edit == []:
        yield "layers.edit is empty; name at least one block"
    elif not is_bearable(edit, list[int]):
        yield f"layers.edit={edit} has to be a list of block numbers, such as layers.edit=[0,1]"
    elif depth is not None and any(not 0 <= layer < depth for layer in edit):
        yield f"layers.edit={edit}, but model={plain['model']['name']} has {depth} blocks (0..{depth - 1})"


def _node_problems(path: str, node: object) -> Iterator[str]:
    """Problems of a node and of everything below it."""
    path = next((home for end, home in _HOME.items() if path.endswith(end)), path)
    if isinstance(node, dict):
        if "_target_" in node:
            yield from _target_problems(path, node)
        for key, value in node.items():
            yield from _node_problems(f"{path}.{key}", value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _node_problems(f"{path}.{i}", value)


def _target_problems(path: str, node: Plain) -> Iterator[str]:
    target = str(node["_target_"])
    if not target.startswith(ALLOWED):
        yield f"{path}._target_={target}, but only {', '.join(p + '*' for p in ALLOWED)} can be built"
        return
    try:
        module, name = target.rsplit(".", 1)
        callee = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        yield f"{path}._target_={target} does not exist"
        return
    parameters = inspect.signature(callee).parameters
    hints = get_type_hints(callee.__init__ if inspect.isclass(callee) else callee)
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in parameters:
            yield _unknown(f"{path}.{key}", [f"{path}.{name}" for name in parameters], target)
        elif value == "???":
            yield f"{path}.{key} has no value; set {path}.{key}=..."
        elif _is_plain(value):
            node[key] = value = _as_float(value, hints.get(key))
            if not is_bearable(value, hints.get(key, object), conf=_TOWER):
                yield f"{path}.{key}={value} has to be {_spelt(hints[key])}"
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in node:
            yield f"{path}.{name} has no value; set +{path}.{name}=..."


def _is_plain(value: object) -> bool:
    """Whether nothing below has to be built first."""
    if isinstance(value, Mapping):
        return False
    return not isinstance(value, list) or all(not isinstance(item, Mapping) for item in value)


def _as_float(value: object, hint: object) -> object:
    """YAML writes 1.0 as 1 and reads 1e-3 as text; a constructor that asks for a float gets one."""
    if hint in (float, float | None) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _spelt(hint: object) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    return getattr(hint, "__name__", str(hint)).removeprefix("typing.")


def _unknown(key: str, known: Sequence[str], what: str) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{key} is no key of {what}; {hint}"
