"""LoRA as an editor: every batch of facts trains a fresh low-rank adapter, which is then merged.

Adam on A and B minimises the mean over facts of the mean over target tokens of −log P(token), and the
edit is ΔW = (α / r) B A of every named matrix. Dropout and the initial A are drawn for every batch
from the seed and the number of facts edited so far, so that a resumed sequence continues with the same bits.

Source: Hu et al. 2021 (arXiv 2106.09685), as in zjunlp/EasyEdit `models/lora` (arXiv 2401.01286).
Deviations: its files ask for AdaLoRA (ΔW = P Λ Q, whose budget its code never steps), it wraps the adapters
of one edit in those of the next (ours are merged), and its targets end in the text `<|endoftext|>`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError
from editors.methods.gradient_editor import AdamEditor
from editors.models.adapters import Adapters, LoRA, seeded
from editors.models.gradients import Evaluation, Objective
from editors.models.model import Model
from editors.updates import Site, sites_of


@dataclass(kw_only=True)
class LoRAEditing(AdamEditor):
    """Adam on fresh low-rank adapters; between edits only the number of edits is remembered."""

    adapters: LoRA
    """Trained matrices, with rank and scale; `layers` has to name their blocks."""
    objective: Objective = "teacher_forced"
    steps: int = 70
    learning_rate: float = 5e-3
    loss_threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.adapters.layers:
            raise ConfigError("editor.adapters.layers names no block; set layers.edit=[...]")

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix of every named block."""
        return sites_of(self.adapters.layers or (), self.adapters.sites)

    def check(self, model: Model) -> None:
        """Check that the model has the matrices, and that every adapted module is named in full.

        Raises:
            ConfigError: for a matrix that it lacks, or one that shares its module with others not named.
        """
        self.adapters.check(model)
        paths, named = model.family.sites, set(self.adapters.sites)
        for name in self.adapters.sites:
            together = [other for other in model.sites if paths[other] == paths[name]]
            if not named.issuperset(together):
                raise ConfigError(
                    f"sites names {name}, but {model.name} keeps {', '.join(together)} in one module, "
                    "which is adapted as a whole; name all of them or none"
                )

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: adapters, gradients and Adam's two of each, and the graph."""
        self.check(model)
        with self._attached(model) as adapters:
            held = 4 * sum(parameter.nbytes for parameter in adapters.parameters())
            return held + super().memory(model, facts)

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Train fresh adapters on the facts and return their products; the weights are not touched.

        Raises:
            NumericsError: for a loss or a change with NaN or infinity.
        """
        begun = time.perf_counter()
        with self._attached(model) as adapters, seeded(self._seed(1)):
            adapters.train()
            diagnostics = self._train(model, facts, adapters)
            products = adapters.products()
        update = self.regularized({site: products[site] for site in self.sites}, model, facts)
        diagnostics["drift_norm"] = sum(delta.square() for delta in update.values()) ** 0.5
        return Edit(update=update, diagnostics=diagnostics, seconds={"training": time.perf_counter() - begun})

    def _seed(self, stream: int) -> int:
        """The seed of one random stream of this edit, unlike those of other edits, seeds and streams."""
        mixed = np.random.SeedSequence([self.adapters.seed, self.edits, stream])
        return int(mixed.generate_state(1)[0])  # torch's generator on the CPU reads no more than 32 bits

    @contextmanager
    def _attached(self, model: Model) -> Iterator[Adapters]:
        adapters = replace(self.adapters, seed=self._seed(0)).attach(model)
        try:
            yield adapters
        finally:
            adapters.detach()

    def _train(self, model: Model, facts: Sequence[Fact], adapters: Adapters) -> dict[str, float]:
        """Train the adapters in place; reported losses include dropout."""
        parameters = adapters.parameters()
        adam = self.adam(parameters)

        def step(evaluation: Evaluation, loss: Float[Tensor, ""]) -> None:
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()

        return self.minimise(model, facts, [], step)
