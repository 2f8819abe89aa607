"""Optimisers of torch, by name, with what a configuration says of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from editors.errors import ConfigError

Kind = Literal["AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "Adamax", "NAdam", "RAdam", "Adafactor"]
"""Classes of `torch.optim`."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Which class of `torch.optim` trains, and its arguments.

    Weight decay is the intervention's, and means what the class makes of it: decoupled for AdamW and
    Adafactor, added to the gradient for the others. Biases and norms are not decayed.
    """

    kind: Kind = "AdamW"
    rate_factor: float = 1.0
    """The learning rate over that of the intervention, which is AdamW's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments, such as `momentum`."""

    def __post_init__(self) -> None:
        if not self.rate_factor > 0:
            raise ConfigError(f"optimizer.rate_factor={self.rate_factor}, but it has to be positive")
        taken = sorted({"lr", "weight_decay", "params"} & set(self.options))
        if taken:
            raise ConfigError(
                f"optimizer.options has {', '.join(taken)}: set intervention.learning_rate and "
                "intervention.weight_decay instead"
            )
        try:
            self.make([torch.nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer.options={dict(self.options)}: {self.kind} says {error}") from error

    @property
    def cls(self) -> type[torch.optim.Optimizer]:
        """The class."""
        return getattr(torch.optim, self.kind)

    @property
    def states(self) -> int:
        """Numbers that it keeps for every trained parameter."""
        parameter = torch.nn.Parameter(torch.zeros(8, 8))
        optimizer = self.make([parameter])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        kept = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
        return sum(value.numel() == parameter.numel() for value in kept)

    def make(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """One for a look at it."""
        return self.cls(parameters, **self.arguments(1.0))

    def arguments(self, learning_rate: float) -> dict[str, Any]:
        """What its constructor gets beside the parameters."""
        return {"lr": learning_rate * self.rate_factor, **self.options}
