"""The memory that a training needs beside the weights, estimated before it begins."""

from typing import TYPE_CHECKING, Any, Protocol

import torch

from editors.errors import ConfigError
from editors.models.memory import GIB, count_saved, free_memory
from pipeline.interventions import distributed as processes
from pipeline.interventions.training.optimizer import Optimizer
from pipeline.interventions.training.trainees import Trainee

if TYPE_CHECKING:
    from datasets import Dataset

_PROBED = 64
"""Tokens of the row on which activations are measured; their memory grows with the number of tokens."""


class Planned(Protocol):
    """The settings of a training that the estimate reads."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def gradient_checkpointing(self) -> bool: ...  # noqa: D102
    @property
    def sharding(self) -> dict[str, Any] | None: ...  # noqa: D102
    @property
    def optimizer(self) -> Optimizer: ...  # noqa: D102


def check_memory(trainee: Trainee, examples: "Dataset", planned: Planned) -> None:
    """Raise a ConfigError with the estimate and the way out if a training does not fit.

    Beside the weights there are a gradient and the optimiser's state for every trained parameter, divided by
    the number of processes if they are sharded, and the activations that a forward pass keeps.
    """
    model = trainee.model
    trained = sum(
        4 * parameter.numel() for parameter in trainee.module.parameters() if parameter.requires_grad
    )
    shares = processes.count() if planned.sharding is not None else 1
    states = trained * (1 + planned.optimizer.states) / shares
    tokens = planned.batch_size * max(len(row) for row in examples["input_ids"][:_PROBED])
    needed = states + tokens * _bytes_per_token(trainee, examples, planned.gradient_checkpointing)
    free = free_memory(model.device)
    if needed > free:
        raise ConfigError(
            f"{planned.name} of {model.name} needs about {needed / GIB:.1f} GiB beside the weights, "
            f"{states / GIB:.1f} of them for gradients and the optimiser, but {free / GIB:.1f} GiB are "
            f"free on {model.device}: choose intervention=lora, intervention.gradient_checkpointing=true, "
            "a smaller intervention.batch_size, or several devices with intervention/sharding=fsdp; "
            "intervention.check_memory=false tries it anyway"
        )


def _bytes_per_token(trainee: Trainee, examples: "Dataset", checkpointing: bool) -> float:
    """Measured on a row; with checkpointing, the inputs of all blocks and the activations of one."""
    model = trainee.model
    row = torch.tensor(examples[0]["input_ids"][:_PROBED], device=model.device)[None]
    with torch.enable_grad(), count_saved(model) as graph:
        trainee.module(input_ids=row, labels=row)
    per_token = graph.bytes / row.shape[1]
    if not checkpointing:
        return per_token
    return per_token / model.depth + model.depth * model.width * row.new_zeros(0).element_size()
