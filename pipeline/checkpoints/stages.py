"""The memory of stages from one measurement to the next, as a file of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from analysis.stages.base import Stage
from editors.models.model import Model
from editors.tensor_files import read_tensors, write_tensors

REMEDY = "resume=never computes the run again"
"""End of the sentence about a file of a checkpoint that cannot be read."""
_NAME = "stages.safetensors"


def save_memories(stages: Sequence[Stage], checkpoint: Path) -> None:
    """Write the memory of the stages into the folder of a checkpoint."""
    tensors = {f"{stage.name}:{key}": value for stage in stages for key, value in stage.memory().items()}
    write_tensors(checkpoint / _NAME, tensors)


def recall_memories(stages: Sequence[Stage], model: Model, checkpoint: Path) -> None:
    """Give the prepared stages back the memory of a checkpoint."""
    tensors = read_tensors(checkpoint / _NAME, remedy=REMEDY)
    for stage in stages:
        names = {name for name in tensors if name.startswith(f"{stage.name}:")}
        stage.recall(model, {name.partition(":")[2]: tensors[name].clone() for name in names})
