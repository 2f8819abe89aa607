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

    `config` holds only what its run uses. Layers are guessed at the relative depth
    that the published model of nearest depth has them at, other constants are that model's.
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
                "python -m pipeline suggest with the same choices measures good ones"
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
    """The model of nearest depth that has values for an editor, and those values as overrides."""
    if depth is None:
        return "", {}
    known = {model: blocks for model in _models_with(editor) if (blocks := _depth(model)) is not None}
    if not known:
        return "", {}
    nearest = min(known, key=lambda model: (abs(known[model] - depth), model))
    values = _yaml(CONF / "hparams" / nearest / f"{editor}.yaml")
    published = (values.get("layers") or {}).get("published")
    guesses = {f"editor.{key}": str(value) for key, value in (values.get("editor") or {}).items()}
    if isinstance(published, list):
        guesses[LAYERS] = str(_scaled(published, known[nearest], depth)).replace(" ", "")
    return nearest, guesses


def _scaled(layers: Sequence[int], depth: int, to: int) -> list[int]:
    """The blocks at the same relative depth of another stack, without the last."""
    return sorted({min(round(layer * to / depth), max(to - 2, 0)) for layer in layers})


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
