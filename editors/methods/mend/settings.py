"""How MEND's hypernetwork is trained; apart, so that an editor can name its settings without training."""

from dataclasses import asdict, dataclass

from editors.errors import ConfigError, check_positive


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings; the defaults are the published ones, and a step is ten iterations of the published code."""

    steps: int = 100_000
    """Optimiser steps, at most."""
    accumulate: int = 10
    """Edits in one step."""
    facts_at_once: int = 1
    """Facts in one edit."""
    unrelated: int = 2
    """Unrelated texts in the locality loss of one edit."""
    swap: float = 0.0
    """Share of edits that write another fact's object, of the same relation (ours, where facts are few)."""
    learning_rate: float = 1e-6
    """Adam's for the networks."""
    step_size_rate: float = 1e-4
    """Adam's for the step sizes α."""
    cooldown: int = 0
    """Last steps, over which both rates fall to zero in a straight line (ours)."""
    edit_weight: float = 0.1
    """c_edit."""
    locality_weight: float = 1.0
    """c_loc."""
    clip: float = 100.0
    """Largest norm of a gradient."""
    calibration: int = 100
    """Facts that means and deviations start from."""
    validate_every: int = 500
    """Steps between two validations."""
    validation: int = 100
    """Facts of a validation, each edited alone."""
    patience: int = 2000
    """Steps without a better total loss after which training ends."""
    seed: int = 0
    """Of the network's beginning and of every draw."""

    def __post_init__(self) -> None:
        free = ("seed", "swap", "cooldown")
        values = {name: value for name, value in asdict(self).items() if name not in free}
        check_positive("editor.training", **values)
        if not 0 <= self.swap <= 1:
            raise ConfigError(f"editor.training.swap={self.swap}, but it is a share from 0 to 1")
