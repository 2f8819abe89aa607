"""Optimisers of torch, by name, with their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from editors.errors import ConfigError

Kind = Literal["AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "Adamax", "NAdam", "RAdam", "Adafactor"]
"""Classes of `torch.optim`."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A class of `torch.optim` and its arguments.

    The intervention sets the weight decay: decoupled for AdamW and Adafactor, added to the gradient for the
    others. Biases and norms are not decayed.
    """

    kind: Kind = "AdamW"
    rate_factor: float = 1.0
    """Multiplies the learning rate of the intervention, which is chosen for AdamW."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments, such as `momentum`."""

    def __post_init__(self) -> None:
        if not self.rate_factor > 0:
            raise ConfigError(f"optimizer.rate_factor={self.rate_factor}, but it has to be positive")
        reserved = sorted({"lr", "weight_decay", "params"} & set(self.options))
        if reserved:
            raise ConfigError(
                f"optimizer.options has {', '.join(reserved)}: set intervention.learning_rate and "
                "intervention.weight_decay instead"
            )
        try:
            self.make([torch.nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer.options={dict(self.options)}: {self.kind} says {error}") from error

    @property
    def cls(self) -> type[torch.optim.Optimizer]:
        """The class of `torch.optim`."""
        return getattr(torch.optim, self.kind)

    @property
    def states(self) -> int:
        """Number of values that the optimiser keeps per trained parameter."""
        parameter = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = self.make([parameter])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
        return sum(value.numel() == parameter.numel() for value in tensors)

    def make(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """An optimiser with learning rate `rate_factor`, for checks."""
        return self.cls(parameters, **self.arguments(1.0))

    def arguments(self, learning_rate: float) -> dict[str, Any]:
        """The constructor's arguments beside the parameters."""
        return {"lr": learning_rate * self.rate_factor, **self.options}
