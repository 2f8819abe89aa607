"""What is left of a run's model: `weights.safetensors`, every parameter that is not as it was loaded.

A run that edits may have kept its updates instead, which lead from the model as it is loaded to the same end.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from editors.errors import DataError
from editors.models.model import Model
from editors.update_files import Recorded, read_updates
from pipeline.checkpoints.updates import FOLDER as UPDATES
from pipeline.runs.atomic_files import settle, settle_folder

WEIGHTS = "weights.safetensors"


def keep_weights(model: Model, folder: Path) -> None:
    """Write every parameter that the checkpoint's files do not hold just so, by its name in `model.hf`.

    Of a run that edits these are the edited matrices, of one that trains what was trained; of one that ends
    with the model that it began with, none. What the files hold under another name is written too.
    """
    # as the model computes with them: float32 masters of a model in half precision were never measured
    changed = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.hf.named_parameters()
        if not _is_as_loaded(model, name, parameter)
    }
    path = folder / WEIGHTS
    part = path.with_suffix(".part")
    save_file(changed, part)
    settle(part)
    part.replace(path)
    settle_folder(folder)


def kept_changes(run: Path) -> Callable[[Model], None]:
    """What brings the model of a run, as it is loaded, to where the run left it.

    Raises:
        DataError: where the run kept nothing that could, or ended with the model that it began with.
    """
    path = run / WEIGHTS
    if not path.is_file() and (run / UPDATES).is_dir():
        return partial(_edit, read_updates(run / UPDATES))
    if not path.is_file():
        raise DataError(f"{run} holds no weights: compute it again with keep_weights=true resume=never")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}): compute the run again") from error
    if not weights:
        raise DataError(f"{run} ended with the model that it began with: nothing to export{_adapter(run)}")
    return partial(_write, weights)


def _adapter(run: Path) -> str:
    found = sorted((run / "adapter").glob("*/adapter_config.json"))
    if not found:
        return ""
    return f". Its adapter is in {found[0].parent}, for peft; intervention.trained.merge=true merges it"


def _edit(batches: Sequence[Recorded], model: Model) -> None:
    for batch in batches:
        model.apply(batch.update)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], model: Model) -> None:
    parameters = dict(model.hf.named_parameters())
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise DataError(f"the kept weights are not of {model.name}, which has no such {name}")
        parameters[name].copy_(value)


def _is_as_loaded(model: Model, name: str, parameter: Tensor) -> bool:
    stored = model.in_file(name)
    return stored is not None and torch.equal(stored.to(parameter.dtype), parameter.cpu())
