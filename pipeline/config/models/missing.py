"""All values that a configuration lacks, as one command to paste, with guesses if there are any."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError, ModelError
from editors.models.stored.model_types import unsupported
from pipeline.config.models.described import description
from pipeline.config.secrets import without_secrets
from pipeline.paths import CONF

LAYERS = "layers.edit"
_NO_VALUE = "..."


def check_complete(config: DictConfig) -> None:
    """Raise a ConfigError with everything that a pair of model and editor lacks.

    `config` holds only what its run uses. Layers are guessed as adjacent blocks at the relative depth of
    those of the published model of nearest depth, other constants are that model's.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    missing = [key for key in _missing(plain) if not key.startswith(("hydra.", "layers."))]
    lacks_layers = _lacks_layers(config)
    model, editor = config.model.name, config.editor.name if config.get("editor") else None
    problems = list(_model_problems(config))
    if not lacks_layers and not problems and not any(key.startswith("editor.") for key in missing):
        return  # single keys are reported with all other problems of the configuration
    depth = None if problems else OmegaConf.select(config, "model.depth", default=None)
    origin, guesses = _guesses(str(editor), depth) if editor else ("", {})
    keys = [LAYERS, *missing] if lacks_layers else missing
    lines = list(problems)
    if keys:
        values = {key: guesses.get(key, _NO_VALUE) for key in keys}
        command = shlex.join([*_given(), *(f"{key}={value}" for key, value in values.items())])
        lines.append(
            f"there are no values for editor={editor} on model={model}: give {', '.join(keys)} on the "
            f"command line, or write conf/hparams/{model}/{editor}.yaml:\n  python -m pipeline {command}"
        )
        scaled = ", at the same relative depth" if LAYERS in keys else ""
        if guessed := [key for key in keys if key in guesses]:
            lines.append(
                f"{' and '.join(guessed)}: a guess, from the values of {origin}{scaled}; "
                "a sweep over a few values tells good ones (docs/sweeps.md)"
            )
    raise ConfigError("\n".join(lines))


def _missing(node: object, path: str = "") -> Iterator[str]:
    """Keys whose value is `???`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _missing(value, f"{path}.{key}".removeprefix("."))
    elif node == "???":
        yield path


def _lacks_layers(config: DictConfig) -> bool:
    layers = config.get("layers")
    if layers is None or not OmegaConf.is_missing(layers, "published"):
        return False
    node = OmegaConf.to_container(layers, resolve=False)
    return isinstance(node, dict) and "layers.published" in str(node.get("edit"))


def _model_problems(config: DictConfig) -> Iterator[str]:
    """A sentence about a model whose configuration cannot be read, or of a family that is not supported."""
    node = OmegaConf.to_container(config.model, resolve=False)
    if not isinstance(node, Mapping) or "model_name" not in str(node.get("name")):
        return  # models with a file of their own are read when they are loaded
    try:
        family, _ = description(node.get("path"), node.get("revision"), node.get("gguf"))
    except ModelError as error:
        yield str(error)
        return
    if sentence := unsupported(family):
        yield f"{node.get('path') or node.get('gguf')}: {sentence}"


def _guesses(editor: str, depth: int | None) -> tuple[str, Mapping[str, str]]:
    """The model of nearest depth with adjacent blocks for an editor, and its values as overrides."""
    if depth is None:
        return "", {}
    published = {model: _yaml(CONF / "hparams" / model / f"{editor}.yaml") for model in _models_with(editor)}
    known = {
        model: blocks
        for model, values in published.items()
        if (blocks := _depth(model)) is not None and _adjacent(_layers(values))
    }
    if not known:
        return "", {}
    nearest = min(known, key=lambda model: (abs(known[model] - depth), model))
    values = published[nearest]
    guesses = {f"editor.{key}": str(value) for key, value in (values.get("editor") or {}).items()}
    guesses[LAYERS] = str(scaled(_layers(values), known[nearest], depth)).replace(" ", "")
    return nearest, guesses


def scaled(layers: Sequence[int], depth: int, to: int) -> list[int]:
    """Adjacent blocks of a stack of `to` blocks, centred at the same relative depth as those of another.

    In a deeper stack they are as many, in a shallower one proportionally fewer.
    """
    count = max(1, round(len(layers) * min(1, to / depth)))
    middle = (sum(layers) / len(layers) + 0.5) * to / depth - 0.5  # of the blocks' middles
    first = min(max(round(middle - (count - 1) / 2), 0), to - count)
    return list(range(first, first + count))


def _layers(values: Mapping[str, Any]) -> Sequence[int]:
    published = (values.get("layers") or {}).get("published")
    return published if isinstance(published, list) else ()


def _adjacent(layers: Sequence[int]) -> bool:
    return len(layers) > 0 and list(layers) == list(range(layers[0], layers[0] + len(layers)))


def _models_with(editor: str) -> list[str]:
    return sorted(path.parent.name for path in (CONF / "hparams").glob(f"*/{editor}.yaml"))


def _depth(model: str) -> int | None:
    path = CONF / "model" / f"{model}.yaml"
    depth = _yaml(path).get("depth") if path.is_file() else None
    return depth if isinstance(depth, int) else None


def _yaml(path: Path) -> Mapping[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _given() -> Sequence[str]:
    """The overrides of the command."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [each for each in without_secrets(list(overrides)) if not each.startswith(f"{LAYERS}=")]
