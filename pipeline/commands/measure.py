"""Measures models that were made of another: `python -m pipeline measure BASE EDITED...`.

BASE and EDITED are Hugging Face folders or ids, such as the checkpoints of a training; BASE may be a name of
conf/model, too. It is a run like any other: options follow in Hydra's form, and the report draws it.

    python -m pipeline measure BASE EDITED name=mine
    python -m analysis report outputs/mine
"""

from collections.abc import Sequence
from pathlib import Path

from editors.errors import ConfigError
from editors.text_files import local_path
from pipeline.config.overrides.quoting import in_quotes
from pipeline.paths import CONF

USAGE = "python -m pipeline measure BASE EDITED... [option=value ...]"
_STAGES = "stage=[norms,spectra]"
"""Stages that read no text."""


def overrides(arguments: Sequence[str]) -> list[str]:
    """The options of the run that measures these models.

    Raises:
        ConfigError: if fewer than two models are named.
    """
    if {"-h", "--help"} & set(arguments):
        print(__doc__)  # noqa: T201
        raise SystemExit(0)
    models = [argument for argument in arguments if "=" not in argument or local_path(argument).exists()]
    options = [argument for argument in arguments if argument not in models]
    if len(models) < 2 or any(model.startswith("-") for model in models):
        raise ConfigError(f"{USAGE}: name the model that the others were made of, and at least one of these")
    base, *edited = models
    is_named = (CONF / "model" / f"{base}.yaml").is_file() and not Path(base).is_dir()
    chosen = [f"model={base}"] if is_named else ["model=hf", f"model.path={in_quotes(base)}"]
    paths = ",".join(map(in_quotes, edited))
    return [
        *chosen,
        "intervention=checkpoints",
        f"intervention.paths=[{paths}]",
        "name=measure",
        _STAGES,
        *options,
    ]
