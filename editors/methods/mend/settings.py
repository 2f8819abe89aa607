"""Settings of the training of MEND's hypernetwork, apart from the trainer so that they import quickly."""

from dataclasses import asdict, dataclass

from editors.errors import ConfigError, check_positive


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training, by default as published; one step is ten iterations of the published code."""

    steps: int = 100_000
    """Largest number of optimiser steps."""
    accumulate: int = 10
    """Edits in one step."""
    facts_at_once: int = 1
    """Facts in one edit."""
    unrelated: int = 2
    """Unrelated texts in the locality loss of one edit."""
    swap: float = 0.0
    """Share of edits that write another object of the same relation; ours, useful if facts are few."""
    learning_rate: float = 1e-6
    """Adam's step size for the networks."""
    step_size_rate: float = 1e-4
    """Adam's step size for the step sizes α."""
    cooldown: int = 0
    """Number of last steps over which both rates fall linearly to zero (ours); 0 keeps them constant."""
    edit_weight: float = 0.1
    """c_edit, weight of the edit loss."""
    locality_weight: float = 1.0
    """c_loc, weight of the locality loss."""
    clip: float = 100.0
    """Largest norm of a gradient."""
    calibration: int = 100
    """Facts from which means and deviations are initialised."""
    validate_every: int = 500
    """Steps between two validations."""
    validation: int = 100
    """Facts of a validation, each edited alone."""
    patience: int = 2000
    """Steps without a better total loss after which training ends."""
    seed: int = 0
    """Seed of the network's initialisation and of every draw."""

    def __post_init__(self) -> None:
        free = ("seed", "swap", "cooldown")
        values = {name: value for name, value in asdict(self).items() if name not in free}
        check_positive("editor.training", **values)
        if not 0 <= self.swap <= 1:
            raise ConfigError(f"editor.training.swap={self.swap}, but it is a share from 0 to 1")
