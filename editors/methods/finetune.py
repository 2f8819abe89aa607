"""Fine-tuning of a few matrices on the facts of one batch: FT, FT-L, FT-M and LocFT.

Adam on W minimises the mean over facts of the mean over target tokens of −log P(token):
  FT    predicts every target token from the distribution after the prompt (`prompt_last`), as published;
  FT-L  also clamps W into [W₀ − ε, W₀ + ε] after every step. W₀ is W before *this* edit, so that the drift
        over a sequence stays unbounded;
  FT-M  predicts each target token after the tokens before it (`teacher_forced`);
  LocFT does the same on all facts at once, in passes over batches of them in random order, and trains the end
        of text after every target, so that an answer stops where the object ends.

Source: kmeng01/rome `baselines/ft` (arXiv 2202.05262); FT-L is Zhu et al. 2020 (arXiv 2012.00363); FT-M is
EasyEdit's (arXiv 2401.01286); LocFT is ICT-STAR/LocFT `fine-tune.py` (arXiv 2509.22072), whose order has no
seed. Deviation: only the matrix is trained; the published code also trains the
bias of the module if it has one (GPT-2, GPT-J). Its mask compares ids with the unknown token; ours follows
from lengths.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Cause, Edit
from editors.data import Fact
from editors.errors import ConfigError
from editors.methods.gradient_editor import AdamEditor
from editors.models.gradients import Evaluation, Objective
from editors.models.model import Model
from editors.updates import Delta, Site, sites_of


@dataclass(kw_only=True)
class FineTuning(AdamEditor):
    """Adam on the named matrices of some blocks; between edits only the number of edits is remembered."""

    layers: Sequence[int]
    """Trained blocks."""
    matrices: Sequence[str] = ("mlp_down",)
    """Trained matrices of each block."""
    objective: Objective = "prompt_last"
    steps: int = 25
    learning_rate: float = 5e-4
    norm_bound: float | None = None
    """ε, the largest change of any entry in one edit (FT-L); null is no bound."""
    loss_threshold: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm_bound is not None and not self.norm_bound > 0:
            raise ConfigError(
                f"editor.norm_bound={self.norm_bound}, but it has to be positive; null is no bound"
            )

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix of every trained block."""
        return sites_of(self.layers, self.matrices)

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """The length of the training, and the bound of its change."""
        bound = "" if self.norm_bound is None else f", or editor.norm_bound ({self.norm_bound:g})"
        return {"edit": super().remedies["edit"] + bound}

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: five copies of the matrices (W₀, W, Adam's two, gradient) and the graph."""
        graph = super().memory(model, facts)
        return 5 * sum(4 * model.current(site).numel() for site in self.sites) + graph

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Train on the facts, write W₀ back and return the change.

        Raises:
            NumericsError: for a loss or a change with NaN or infinity; the weights are as they were.
        """
        begun = time.perf_counter()
        before = model.snapshot(self.sites)
        trained = {site: value.clone() for site, value in before.items()}
        try:
            diagnostics = self._train(model, facts, before, trained)
        finally:
            model.restore(before)
        change = {site: Delta(left=self._bounded(trained[site] - before[site])) for site in before}
        update = self.regularized(change, model, facts)
        drift = torch.cat([delta.dense().flatten() for delta in update.values()])
        diagnostics |= {"drift_max": float(drift.abs().max()), "drift_norm": float(drift.norm())}
        return Edit(update=update, diagnostics=diagnostics, seconds={"training": time.perf_counter() - begun})

    def descent(self, site: Site, gradient: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The gradient that Adam is given for one matrix: by default that of the loss."""
        return gradient

    def _train(
        self,
        model: Model,
        facts: Sequence[Fact],
        before: Mapping[Site, Tensor],
        trained: Mapping[Site, Tensor],
    ) -> dict[str, float]:
        """Train the matrices in place, writing them into the model after every step."""
        adam = self.adam(trained.values())

        def step(evaluation: Evaluation, loss: Float[Tensor, ""]) -> None:
            for site, gradients in evaluation.gradients(loss).items():
                trained[site].grad = self.descent(site, gradients.weight_gradient()).to(trained[site])
            adam.step()
            for site, matrix in trained.items():
                if self.norm_bound is not None:
                    matrix.clamp_(before[site] - self.norm_bound, before[site] + self.norm_bound)
                model.write(site, matrix)

        return self.minimise(model, facts, self.sites, step)

    def _bounded(self, change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The change within ±ε: W − W₀ may exceed it by the last bit of W."""
        if self.norm_bound is None:
            return change
        return change.clamp(-self.norm_bound, self.norm_bound)
