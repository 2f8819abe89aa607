"""Settings of the training of MEND's hypernetwork.

They are kept apart from the trainer so that this module imports quickly.
"""

from dataclasses import asdict, dataclass

from editors.errors import ConfigError, check_positive


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters of the training; defaults as published.

    With `accumulate=10`, one step equals ten iterations of the published code.
    """

    steps: int = 100_000
    """Largest number of optimiser steps."""
    accumulate: int = 10
    """Edits whose gradients are accumulated in one optimiser step."""
    facts_at_once: int = 1
    """Facts in one edit."""
    unrelated: int = 2
    """Number of unrelated prompts and texts in the locality loss of one edit."""
    swap: float = 0.0
    """Share of edited facts whose target is replaced by another object of the same relation (our addition).

    Raise it if there are few facts.
    """
    learning_rate: float = 1e-6
    """Adam's learning rate for the networks."""
    step_size_rate: float = 1e-4
    """Adam's learning rate for the learned step sizes α."""
    cooldown: int = 0
    """Number of final steps over which both learning rates decay linearly towards zero (our addition).

    0 keeps them constant.
    """
    edit_weight: float = 0.1
    """c_edit, weight of the edit loss."""
    locality_weight: float = 1.0
    """c_loc, weight of the locality loss."""
    clip: float = 100.0
    """Gradients with a larger norm are scaled down to this norm."""
    calibration: int = 100
    """Number of facts used to initialise the mean and standard deviation that normalise the hypernetwork's
    inputs."""
    validate_every: int = 500
    """Steps between two validations."""
    validation: int = 100
    """Facts of a validation, each edited alone."""
    patience: int = 2000
    """Training stops after this many steps without an improvement of the total validation loss."""
    seed: int = 0
    """Seed of the network's initialisation and of every draw."""

    def __post_init__(self) -> None:
        zero_allowed = ("seed", "swap", "cooldown")
        values = {name: value for name, value in asdict(self).items() if name not in zero_allowed}
        check_positive("editor.training", **values)
        if not 0 <= self.swap <= 1:
            raise ConfigError(f"editor.training.swap={self.swap}, but it has to be between 0 and 1")
        if self.cooldown < 0:
            raise ConfigError(f"editor.training.cooldown={self.cooldown}, but it has to be at least 0")
