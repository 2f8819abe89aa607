"""All values that a configuration lacks, as one command to paste, with guesses if there are any."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError, ModelError
from editors.models.stored.model_types import unsupported
from pipeline.config.models.described import description
from pipeline.config.models.published import LAYERS as PUBLISHED, as_text, nearest
from pipeline.config.secrets import without_secrets

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
    origin, values = nearest(str(editor), depth)
    guesses = {LAYERS if key == PUBLISHED else key: as_text(value) for key, value in values.items()}
    keys = [LAYERS, *missing] if lacks_layers else missing
    lines = list(problems)
    if keys:
        lacking = [f"{key}={guesses.get(key, _NO_VALUE)}" for key in keys]
        lines.append(
            f"there are no values for editor={editor} on model={model}: give {', '.join(keys)} on the "
            f"command line, or write conf/hparams/{model}/{editor}.yaml:\n"
            f"  python -m pipeline {shlex.join([*_given(), *lacking])}"
        )
        scaled = ", at the same relative depth" if LAYERS in keys else ""
        if guessed := [key for key in keys if key in guesses]:
            lines.append(
                f"{' and '.join(guessed)}: a guess, from the values of {origin}{scaled}; this searches for "
                f"good ones (docs/models.md):\n  python -m pipeline suggest {_search(str(editor), lacking)}"
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


def _search(editor: str, lacking: Sequence[str]) -> str:
    """The options that search for values of the editor, with what is lacking besides."""
    given = [each for each in _given() if not each.startswith(("editor=", "editor.", "layers"))]
    others = [each for each in lacking if not each.startswith(("editor.", f"{LAYERS}="))]
    return shlex.join([*given, f"editor={editor}", *others])


def _given() -> Sequence[str]:
    """The overrides of the command."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [each for each in without_secrets(list(overrides)) if not each.startswith(f"{LAYERS}=")]
