"""What stages remember from one measurement to the next, as a file of a saved state."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from analysis.stages.base import Stage
from editors.models.model import Model

_NAME = "stages.safetensors"


def save_memories(stages: Sequence[Stage], checkpoint: Path) -> None:
    """Write what the stages remember into the folder of a state."""
    tensors = {
        f"{stage.name}:{key}": value.detach().cpu().contiguous()
        for stage in stages
        for key, value in stage.memory().items()
    }
    save_file(tensors, checkpoint / _NAME)


def recall_memories(stages: Sequence[Stage], model: Model, checkpoint: Path) -> None:
    """Give the prepared stages back what they remembered."""
    tensors = load_file(checkpoint / _NAME)
    for stage in stages:
        mine = {key for key in tensors if key.startswith(f"{stage.name}:")}
        stage.recall(model, {key.partition(":")[2]: tensors[key].clone() for key in mine})
