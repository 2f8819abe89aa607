"""Models by name, folder or id, with the configuration that belongs to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editors.errors import ConfigError
from editors.models.model import Model
from editors.text_files import local_path
from editors.updates import Site
from pipeline.build import build_model
from pipeline.config.models.described import model_name
from pipeline.config.models.published import choice_of_values
from pipeline.config.schema import ResolvedConfig
from pipeline.notebook.composition import choices_of, composed
from pipeline.tracking.display import progress_view

_ANY = "hf"
"""The choice for models that have no file in `conf/model`."""


def load(model: str | Path, *, edited: Sequence[str] | str = (), **options: object) -> Model:
    """A model to edit or measure, in evaluation mode.

    `model` is a name of `conf/model`, such as `tiny-gpt2`; or a folder or an id of the Hugging Face hub, if
    its family is supported. `options` are those of `editors.Checkpoint`, such as `dtype="bfloat16"`; with
    `bits=4` only the matrices of `edited`, such as `["mlp_down.05"]`, can be edited.

    Raises:
        ConfigError: for an option that there is not, a name in `edited` that is none of a matrix, or a device
            or precision that cannot be used.
        ModelError: if the model cannot be loaded.
    """
    if not isinstance(model, str | Path):
        raise ConfigError(f"a model is a name, a folder or an id, but got {type(model).__name__}")
    named = str(model) in choices_of("model") and not local_path(str(model)).is_dir()
    place = {} if named else {"name": model_name(str(model), None), "path": str(model)}
    choice = str(model) if named else _ANY
    plain = composed([f"model={choice}", *NO_EDITS], {"model": place | options})
    changed = _sites(edited)
    if changed and options.get("bits") is None:
        raise ConfigError(
            f"edited={edited} is for bits=4, without which every matrix can be edited: leave it out"
        )
    with progress_view() as view:
        return build_model(plain).load(view.report, changed)


def _sites(edited: Sequence[str] | str) -> list[Site]:
    names = [edited] if isinstance(edited, str) else list(edited)
    try:
        return [Site.parse(name) for name in names]
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"edited={edited} has to name matrices and their blocks: mlp_down.05") from error


def loaded(model: Model | str | Path) -> Model:
    """The model itself, or the one of this name, folder or id."""
    return model if isinstance(model, Model) else load(model)


def configured(
    model: Model,
    choices: Sequence[str],
    values: Mapping[str, Any],
    corpus: str | Path | None = None,
) -> ResolvedConfig:
    """The configuration of a loaded model with further choices and values.

    `corpus` is a text file, or a name of `conf/corpus`, in place of the model's own text.
    """
    named = model.name in choices_of("model")
    path = model.hf.config.name_or_path or model.name
    place = {} if named else {"name": model.name, "path": path, "depth": model.depth}
    chosen, own = _text(corpus)
    every = [
        f"model={model.name if named else _ANY}",
        *([] if named else choice_of_values(model.name)),
        *chosen,
        *choices,
    ]
    return composed(every, {**values, "model": place | own})


def _text(corpus: str | Path | None) -> tuple[list[str], dict[str, Any]]:
    """The choice of a text, and the values that it needs."""
    if corpus is None:
        return [], {}
    if str(corpus) in choices_of("corpus") and not local_path(str(corpus)).exists():
        return [f"corpus@model.corpus={corpus}"], {}
    return ["corpus@model.corpus=file"], {"corpus": {"path": str(corpus)}}


NO_EDITS = ("intervention=cpt",)
"""Leaves out editor and layers, for which a model may have no values."""
