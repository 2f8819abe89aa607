"""The model at the end of a run: `weights.safetensors`, every parameter that differs from the loaded one.

A run that edits may have kept its updates instead: applied to the loaded model they give the same weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from analysis.results.run_folder import RunFolder
from analysis.results.seal import REMEDY
from editors.errors import DataError
from editors.models.gradients import check_sites
from editors.models.model import Model
from editors.tensor_files import read_tensors, write_tensors
from editors.update_files import Recorded, check_undo, first_edits, read_updates
from pipeline.checkpoints.kept_updates import FOLDER as UPDATES

WEIGHTS = "weights.safetensors"
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Those that a run computes in."""


def keep_weights(model: Model, folder: Path) -> None:
    """Write every parameter that differs from the checkpoint's files, by its name in `model.hf`.

    For edits these are the edited matrices, for a training the trained parameters; none if the run ended with
    the model that it began with. A parameter that the files hold under another name is written too.
    """
    # as the model computes with them: float32 masters of a model in half precision were never measured
    changed = {
        name: parameter
        for name, parameter in model.hf.named_parameters()
        if not _is_as_loaded(model, name, parameter)
    }
    write_tensors(folder / WEIGHTS, changed, durable=True)


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Edits of a run that are taken back; by default none."""

    facts: tuple[str, ...] = ()
    """Ids of the facts."""
    edits: int | None = None
    """Number of edits, from the first, that are kept; None keeps all."""

    def __bool__(self) -> bool:
        """Whether anything is taken back."""
        return bool(self.facts) or self.edits is not None

    def __str__(self) -> str:
        """For a reader of the model's card."""
        parts = [f"all after the first {self.edits}"] if self.edits is not None else []
        return " and ".join([*parts, *([f"those of {', '.join(self.facts)}"] if self.facts else [])])

    def remaining(self, batches: Sequence[Recorded]) -> list[Recorded]:
        """The batches that stay, in their order; raises DataError if the edits cannot be taken back."""
        kept = list(batches) if self.edits is None else first_edits(batches, self.edits)
        check_undo(kept, self.facts)
        return [batch for batch in kept if batch.facts[0] not in self.facts]


NOTHING = Undo()


def kept_changes(run: Path, undo: Undo = NOTHING) -> Callable[[Model], None]:
    """A function that changes the model of a run, as loaded, into the one that the run ended with.

    With `undo` into the one that the remaining updates lead to, in their order.

    Raises:
        DataError: if the run kept neither weights nor updates, they are not as they were written, or it ended
            with the model that it began with; or if edits cannot be taken back.
    """
    path = run / WEIGHTS
    if undo:
        if not (run / UPDATES).is_dir():
            raise DataError(
                f"{run} kept no updates, so that no edit can be taken back: compute it again with "
                "intervention.keep_updates=true resume=never"
            )
        RunFolder(run).verify(f"{UPDATES}/*")
        return partial(_edit, undo.remaining(read_updates(run / UPDATES)))
    if not path.is_file() and (run / UPDATES).is_dir():
        RunFolder(run).verify(f"{UPDATES}/*")
        return partial(_edit, read_updates(run / UPDATES))
    if not path.is_file():
        raise DataError(f"{run} holds no weights: compute it again with keep_weights=true resume=never")
    RunFolder(run).verify(WEIGHTS)
    weights = read_tensors(path, remedy="compute the run again")
    if not weights:
        raise DataError(f"{run} ended with the model that it began with: nothing to export{_adapter(run)}")
    return partial(_write, weights)


def _adapter(run: Path) -> str:
    """The end of the sentence if the run kept an adapter."""
    configs = sorted((run / "adapter").glob("*/adapter_config.json"))
    if not configs:
        return ""
    return f". Its adapter is in {configs[0].parent}, for peft; intervention.trained.merge=true merges it"


def _edit(batches: Sequence[Recorded], model: Model) -> None:
    for batch in batches:
        check_sites(model, batch.sites, "updates")
        model.apply(batch.update)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], model: Model) -> None:
    parameters = dict(model.hf.named_parameters())
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise DataError(f"the kept weights are not of {model.name}, which has no such {name}")
        if value.dtype not in _PRECISIONS:
            kind = str(value.dtype).removeprefix("torch.")
            raise DataError(f"the kept weights {name} are {kind}, which no run writes: {REMEDY}")
        if not bool(value.to(parameters[name].dtype).isfinite().all()):
            raise DataError(
                f"the kept weights {name} are not finite: the run diverged, or they were changed; "
                "compute it again with resume=never"
            )
        parameters[name].copy_(value)


def _is_as_loaded(model: Model, name: str, parameter: Tensor) -> bool:
    stored = model.in_file(name)
    return stored is not None and torch.equal(stored.to(parameter.dtype), parameter.cpu())
