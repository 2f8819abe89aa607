"""All values that a configuration lacks, as one command to paste, with guesses if there are any."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError, ModelError
from editors.hub import is_cached, is_offline
from editors.models.stored.model_types import unsupported
from pipeline.config.models.described import description
from pipeline.config.models.published import LAYERS as PUBLISHED, as_text, nearest
from pipeline.config.secrets import without_secrets
from pipeline.paths import shown_python

LAYERS = "layers.edit"
_NO_VALUE = "..."
_ARTICLES, _PACKAGES = "corpus@model.corpus=articles", ("gensim", "mwparserfromhell")
"""The option that takes a text from packages, and these."""
OF_A_RUN = (
    "edits batch_size seed data facts stage experiment overlay objective name launcher tracker resume "
    "keep_weights hydra"
).split()
"""Groups of options that belong to a single run, not to the model or its values."""


def check_complete(config: DictConfig, *, in_python: bool = False) -> None:
    """Raise a ConfigError with everything that a pair of model and editor lacks.

    `config` holds only what its run uses. Layers are guessed as adjacent blocks at the relative depth of
    those of the published model of nearest depth, other constants are that model's. `in_python` names what to
    give as arguments of `edit` rather than as options.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    missing = [key for key in _missing(plain) if not key.startswith("layers.")]
    lacks_layers = _lacks_layers(config)
    if problems := list(_model_problems(config)):
        raise ConfigError("\n".join(problems))  # without the model's depth there are no guesses
    if lacks_layers or any(key.startswith("editor.") for key in missing):
        keys = [LAYERS, *missing] if lacks_layers else missing
        raise ConfigError("\n".join(_commands(config, keys, in_python)))
    # single keys are reported with all other problems of the configuration


def _commands(config: DictConfig, keys: Sequence[str], in_python: bool) -> Iterator[str]:
    """The command with all keys that lack a value, and the one that searches for values."""
    model, editor = config.model.name, config.editor.name if config.get("editor") else None
    origin, values = nearest(str(editor), OmegaConf.select(config, "model.depth", default=None))
    guesses = {LAYERS if key == PUBLISHED else key: as_text(value) for key, value in values.items()}
    lacking = [f"{key}={guesses.get(key, _NO_VALUE)}" for key in keys]
    text = [_ARTICLES] if _lacks_text(config) and is_offline() else []
    if not HydraConfig.initialized():  # in Python, and for a job of a sweep: there is no command to complete
        needed = [*lacking, *text]
        given = ", ".join(map(_as_argument, needed)) if in_python else shlex.join(needed)
        yield (
            f"there are no values for editor={editor} on model={model}: give {given}, or write "
            f"conf/hparams/{model}/{editor}.yaml, for example by python -m pipeline suggest (docs/models.md)"
        )
        return
    yield (
        f"there are no values for editor={editor} on model={model}: give {', '.join(keys)} on the "
        f"command line, or write conf/hparams/{model}/{editor}.yaml:\n"
        f"  {shown_python()} -m pipeline {shlex.join([*_given(), *lacking, *text])}"
    )
    scaled = ", at the same relative depth" if LAYERS in keys else ""
    if guessed := [key for key in keys if key in guesses]:
        yield (
            f"{' and '.join(guessed)}: a guess, from the values of {origin}{scaled}; this searches for "
            f"good ones (docs/models.md):\n  {shown_python()} -m pipeline suggest "
            f"{_search(str(editor), lacking, text)}"
        )
    if _lacks_text(config) and not text:
        yield f"{config.model.corpus.dataset} is downloaded from the hub; without a hub add {_ARTICLES}"


def _as_argument(option: str) -> str:
    """An option of a command line as an argument of `edit` in Python."""
    if option == _ARTICLES:
        return 'corpus="articles"'
    return option.replace(LAYERS, "layers").removeprefix("editor.")


def _lacks_text(config: DictConfig) -> bool:
    """Whether the model's text has to be downloaded though a package on this machine holds another one."""
    dataset = OmegaConf.select(config, "model.corpus.dataset", default=None)
    is_chosen = any(each.startswith("corpus@model.corpus=") for each in _given())
    is_read = bool(dataset) and config.get("moments") is not None
    return is_read and not is_chosen and not is_cached(dataset) and all(map(find_spec, _PACKAGES))


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


def _search(editor: str, lacking: Sequence[str], text: Sequence[str]) -> str:
    """The options that search for values of the editor on facts for tuning, with what is lacking besides."""
    others = [*_given(), *lacking, *text]
    left_out = (*OF_A_RUN, "editor", "layers", "model", "intervention")
    kept = [each for each in others if group_of(each) not in left_out]
    model = [each for each in others if group_of(each) == "model"]
    is_named = any(each.startswith("model=") for each in model)
    return shlex.join([*([] if is_named else _default_model()), *model, f"editor={editor}", *kept])


def group_of(argument: str) -> str:
    """The first part of the key of an override: `stage` of `+stage.norms.scope=all` and of `stage/x=y`."""
    return re.split(r"[.@=/]", argument.lstrip("+~"))[0]


def _default_model() -> list[str]:
    """The choice of the model of a command line that names none."""
    return [f"model={HydraConfig.get().runtime.choices['model']}"] if HydraConfig.initialized() else []


def _given() -> Sequence[str]:
    """The overrides of the command."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [each for each in without_secrets(list(overrides)) if not each.startswith(f"{LAYERS}=")]
