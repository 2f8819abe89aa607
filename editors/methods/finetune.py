"""Fine-tuning of a few matrices on the facts of one batch: FT, FT-L and FT-M.

Adam on W minimises the mean over facts of the mean over target tokens of −log P(token):
  FT    reads every target token from the distribution after the prompt (`prompt_last`), as published;
  FT-L  does too and clamps W into [W₀ − ε, W₀ + ε] after every step, W₀ being W before *this* edit, so
        that the drift over a sequence stays unbounded;
  FT-M  reads each target token after those before it (`teacher_forced`).

Source: kmeng01/rome `baselines/ft` (arXiv 2202.05262); FT-L is Zhu et al. 2020 (arXiv 2012.00363); FT-M is
EasyEdit's (arXiv 2401.01286). Deviation: only the matrix is trained; the published code also trains the
bias of the module where it has one (GPT-2, GPT-J). Its mask compares ids with the unknown token; ours
goes by length.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Edit, Editor
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.gradients import (
    Objective,
    Reading,
    check_sites,
    check_trained,
    graph_bytes,
    read_in_parts,
)
from editors.models.model import Model
from editors.regularizers.base import Progress, Regularizer
from editors.regularizers.composition import Rules
from editors.updates import Delta, Site

Matrices = dict[Site, Tensor]


@dataclass(kw_only=True)
class FineTuning(Editor):
    """Adam on the named matrices of some blocks; it remembers nothing of an edit but that it was made."""

    name: str
    layers: Sequence[int]
    """Trained blocks."""
    matrices: Sequence[str] = ("mlp_down",)
    """Trained matrices of each block."""
    objective: Objective = "prompt_last"
    steps: int = 25
    """Passes over the batch, at most."""
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    """Adam's: added to the gradient as weight_decay · W."""
    norm_bound: float | None = None
    """ε, largest change of any entry in one edit (FT-L); null is no bound."""
    facts_at_once: int = 64
    """Facts in one optimiser step."""
    loss_threshold: float = 0.01
    """Facts whose mean loss is below it are not stepped on; below it over the batch the edit ends."""
    regularizers: Mapping[str, Regularizer] = field(default_factory=dict)
    """Those that act on updates and weights."""

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "facts_at_once"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"editor.{name}={getattr(self, name)}, but it has to be positive")
        if self.norm_bound is not None and not self.norm_bound > 0:
            raise ConfigError(
                f"editor.norm_bound={self.norm_bound}, but it has to be positive; null is no bound"
            )
        self._rules = Rules(self.regularizers, self.name, ("update", "weight"))

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix of every trained block."""
        return [Site(name, layer) for layer in sorted(self.layers) for name in self.matrices]

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        """Check that the model has the matrices."""
        check_sites(model, self.sites)
        if not self.edits:
            self._rules.prepare(model, self.sites)

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: five copies of the matrices (W₀, W, Adam's two, gradient) and the graph."""
        check_sites(model, self.sites)
        copies = 5 * sum(4 * model.current(site).numel() for site in self.sites)
        return copies + min(len(facts), self.facts_at_once) * graph_bytes(
            model, facts, self.objective, self.sites
        )

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Train on the facts and give the change; W₀ is written back.

        Raises:
            NumericsError: for a loss or a change with NaN or infinity; the weights are as they were.
        """
        begun = time.perf_counter()
        before = model.snapshot(self.sites)
        try:
            trained, losses, steps = self._train(model, facts, before)
        finally:
            model.restore(before)
        update = {site: Delta(left=self._bounded(trained[site] - before[site])) for site in before}
        update = self._rules.shape(update, model, Progress(self.edits, self.edits + len(facts)))
        check_trained(update, facts)
        drift = torch.cat([delta.dense().flatten() for delta in update.values()])
        diagnostics = {
            "loss_start": losses[0],
            "loss_end": losses[-1],
            "optimiser_steps": float(steps),
            "drift_max": float(drift.abs().max()),
            "drift_norm": float(drift.norm()),
        }
        seconds = {"training": time.perf_counter() - begun}
        return Edit(update=update, diagnostics=diagnostics, seconds=seconds)

    def _train(
        self, model: Model, facts: Sequence[Fact], before: Mapping[Site, Tensor]
    ) -> tuple[Matrices, list[float], int]:
        """The trained matrices, the mean loss of every pass as it was met, and the steps taken."""
        readings = read_in_parts(model, facts, self.objective, self.sites, self.facts_at_once)
        trained = {site: value.clone() for site, value in before.items()}
        adam = torch.optim.Adam(trained.values(), lr=self.learning_rate, weight_decay=self.weight_decay)
        losses, taken = [], 0
        for _ in range(self.steps):
            total = 0.0
            for reading in readings:
                loss = self._step(reading, trained, before, adam)
                total += loss * len(reading.facts)
                taken += loss >= self.loss_threshold
            losses.append(total / len(facts))
            if losses[-1] < self.loss_threshold:
                break
        return trained, losses, taken

    def _step(
        self,
        reading: Reading,
        trained: Matrices,
        before: Mapping[Site, Tensor],
        adam: torch.optim.Adam,
    ) -> float:
        """One optimiser step, unless the loss is small enough; the mean loss before it."""
        evaluation = reading.evaluate(self.sites)
        loss = (evaluation.losses / reading.lengths).mean()
        value = float(loss.detach())
        if value < self.loss_threshold:
            return value
        for site, pull in evaluation.pulls(loss).items():
            trained[site].grad = pull.weight_gradient().to(trained[site])
        adam.step()
        for site, matrix in trained.items():
            if self.norm_bound is not None:
                first, bound = before[site], self.norm_bound
                matrix.clamp_(first - bound, first + bound)
            reading.replay.model.write(site, matrix)
        return value

    def _bounded(self, change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The change within ±ε: W − W₀ may exceed it by the last bit of W."""
        if self.norm_bound is None:
            return change
        return change.clamp(-self.norm_bound, self.norm_bound)
