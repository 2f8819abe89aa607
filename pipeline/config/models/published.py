"""The values of `conf/hparams`: which models have any for an editor, and what they tell of another model."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.models.described import model_name
from pipeline.paths import CONF

LAYERS = "layers.published"
"""Key of the blocks that a pair of model and editor edits."""
Values = Mapping[str, Any]
"""Values by dotted key, such as `editor.targets.steps`."""
_BLOCK = "_layer"
"""Ending of keys whose value is the number of a block."""


def published(editor: str, folder: Path = CONF / "hparams") -> dict[str, Values]:
    """The values of every model that has a file for the editor, with those that the file builds on."""
    models = sorted(path.parent.name for path in folder.glob(f"*/{editor}.yaml"))
    return {model: flat(_values(folder, f"{model}/{editor}")) for model in models}


def nearest(editor: str, depth: int | None) -> tuple[str, Values]:
    """The model of nearest depth with values for an editor, and these for a model of `depth` blocks.

    Blocks become adjacent ones at the same relative depth (`scaled`). Models whose blocks are not adjacent
    are left out; the name is empty if no model remains, or if the depth is not known.
    """
    known = {
        model: (blocks, values)
        for model, values in published(editor).items()
        if (blocks := _depth(model)) is not None and _is_adjacent(values.get(LAYERS, ()))
    }
    if depth is None or not known:
        return "", {}
    model = min(known, key=lambda name: (abs(known[name][0] - depth), name))
    blocks, values = known[model]
    return model, {
        key: scaled(value, blocks, depth)
        if key == LAYERS
        else scaled([value], blocks, depth)[0]
        if key.endswith(_BLOCK)
        else value
        for key, value in values.items()
        if key == LAYERS or not are_blocks(value)
    }


def with_values(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the choice of the values in `hparams/<name>` for a model of `model=hf`.

    The names of other models are the choices themselves. Folders of `--config-dir` count, too.
    """
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if options.get("model") != "hf" or "hparams" in options:
        return list(arguments)
    name = options.get("model.name") or model_name(options.get("model.path"), options.get("model.gguf"))
    folders = [CONF, *(Path(after) for flag, after in pairwise(arguments) if flag in ("--config-dir", "-cd"))]
    return [*arguments, *choice_of_values(name, folders)]


def choice_of_values(name: str | None, folders: Sequence[Path] = (CONF,)) -> list[str]:
    """The choice of the values in `hparams/<name>`, empty if no folder of configuration has them."""
    has_values = bool(name) and any((folder / "hparams" / name).is_dir() for folder in folders)
    return [f"hparams={name}/${{editor}}"] if has_values else []


def scaled(layers: Sequence[int], depth: int, to: int) -> list[int]:
    """Adjacent blocks of a stack of `to` blocks, centred at the same relative depth as those of another.

    In a deeper stack they are as many, in a shallower one proportionally fewer.
    """
    count = max(1, round(len(layers) * min(1, to / depth)))
    middle = (sum(layers) / len(layers) + 0.5) * to / depth - 0.5  # of the blocks' middles
    first = min(max(round(middle - (count - 1) / 2), 0), to - count)
    return list(range(first, first + count))


def as_text(value: object) -> str:
    """A value as on the command line."""
    return str(value).replace(" ", "")


def are_blocks(value: object) -> bool:
    """Whether a value is a list of blocks, which means nothing in another model."""
    return isinstance(value, list) and all(isinstance(each, int) for each in value)


def _values(folder: Path, name: str) -> dict[str, Any]:
    """The content of a file of hparams, above that of the files in its defaults."""
    content: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in content.pop("defaults", ()):
        if isinstance(base, str) and base.startswith("/hparams/"):
            merged = _merged(merged, _values(folder, base.removeprefix("/hparams/")))
    return _merged(merged, content)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    return below | {
        key: _merged(below[key], value)
        if isinstance(value, dict) and isinstance(below.get(key), dict)
        else value
        for key, value in above.items()
    }


def flat(node: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The values of a node by dotted key."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return values


def _is_adjacent(layers: Sequence[int]) -> bool:
    return len(layers) > 0 and list(layers) == list(range(layers[0], layers[0] + len(layers)))


def _depth(model: str) -> int | None:
    path = CONF / "model" / f"{model}.yaml"
    depth = yaml.safe_load(path.read_text(encoding="utf-8")).get("depth") if path.is_file() else None
    return depth if isinstance(depth, int) else None
