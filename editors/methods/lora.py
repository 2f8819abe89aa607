"""LoRA as an editor: a fresh low-rank adapter for every batch of facts, trained on them and merged.

Adam on A and B minimises the mean over facts of the mean over target tokens of −log P(token), and the
edit is ΔW = (α / r) B A of every named matrix. Dropout and the start of A are drawn anew for every batch,
from the seed and the number of facts edited so far, so that a resumed sequence goes on with the same bits.

Source: Hu et al. 2021 (arXiv 2106.09685), as in zjunlp/EasyEdit `models/lora` (arXiv 2401.01286).
Deviations: its files ask for AdaLoRA (ΔW = P Λ Q, whose budget its code never steps), it wraps the adapters
of one edit in those of the next, where ours are merged, and its targets end in the text `<|endoftext|>`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from editors.base import Edit, Editor
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.adapters import Adapters, LoRA, seeded
from editors.models.gradients import Objective, Reading, check_trained, graph_bytes, read_in_parts
from editors.models.model import Model
from editors.regularizers.base import Progress, Regularizer
from editors.regularizers.composition import Rules
from editors.updates import Site


@dataclass(kw_only=True)
class LoRAEditing(Editor):
    """Low-rank adapters on named matrices of some blocks; it remembers nothing but the number of edits."""

    name: str
    adapters: LoRA
    """Trained matrices, which have to be named by block, rank and scale."""
    objective: Objective = "teacher_forced"
    steps: int = 70
    """Passes over the batch, at most."""
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    """Adam's: added to the gradients as weight_decay · A and weight_decay · B."""
    facts_at_once: int = 64
    """Facts in one optimiser step."""
    loss_threshold: float = 0.0
    """Facts whose mean loss is below it are not stepped on; below it over the batch the edit ends."""
    regularizers: Mapping[str, Regularizer] = field(default_factory=dict)
    """Those that act on updates and weights."""

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "facts_at_once"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"editor.{name}={getattr(self, name)}, but it has to be positive")
        if not self.adapters.layers:
            raise ConfigError("editor.adapters.layers names no block; set layers.edit=[...]")
        self._rules = Rules(self.regularizers, self.name, ("update", "weight"))

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix of every named block."""
        layers = sorted(self.adapters.layers or ())
        return [Site(name, layer) for layer in layers for name in self.adapters.sites]

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        """Check that the model has the matrices.

        Raises:
            ConfigError: for a matrix that it lacks, or one that shares its module with others not named.
        """
        self._check(model)
        if not self.edits:
            self._rules.prepare(model, self.sites)

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: adapters, gradients and Adam's two of each, and the graph."""
        self._check(model)
        with self._attached(model) as adapters:
            held = 4 * sum(parameter.nbytes for parameter in adapters.parameters())
            graph = graph_bytes(model, facts, self.objective, self.sites)
        return held + min(len(facts), self.facts_at_once) * graph

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Train fresh adapters on the facts and give their products; the weights are not touched.

        Raises:
            NumericsError: for a loss or a change with NaN or infinity.
        """
        begun = time.perf_counter()
        readings = read_in_parts(model, facts, self.objective, self.sites, self.facts_at_once)
        with self._attached(model) as adapters, seeded(self._seed(1)):
            adapters.train()
            losses, steps = self._train(readings, adapters, len(facts))
            update = adapters.products()
        update = self._rules.shape(
            {site: update[site] for site in self.sites}, model, Progress(self.edits, self.edits + len(facts))
        )
        check_trained(update, facts)
        diagnostics = {
            "loss_start": losses[0],
            "loss_end": losses[-1],
            "optimiser_steps": float(steps),
            "drift_norm": sum(delta.square() for delta in update.values()) ** 0.5,
        }
        seconds = {"training": time.perf_counter() - begun}
        return Edit(update=update, diagnostics=diagnostics, seconds=seconds)

    def _check(self, model: Model) -> None:
        self.adapters.check(model)
        paths, named = model.family.sites, set(self.adapters.sites)
        for name in self.adapters.sites:
            together = [other for other in model.sites if paths[other] == paths[name]]
            if not named.issuperset(together):
                raise ConfigError(
                    f"sites names {name}, but {model.name} keeps {', '.join(together)} in one module, "
                    "which is adapted as a whole; name all of them or none"
                )

    def _seed(self, stream: int) -> int:
        """Of one of the draws of this edit, unlike those of other edits, seeds and streams."""
        mixed = np.random.SeedSequence([self.adapters.seed, self.edits, stream])
        return int(mixed.generate_state(1)[0])  # torch's generator on the CPU reads no more than 32 bits

    @contextmanager
    def _attached(self, model: Model) -> Iterator[Adapters]:
        adapters = replace(self.adapters, seed=self._seed(0)).attach(model)
        try:
            yield adapters
        finally:
            adapters.detach()

    def _train(self, readings: Sequence[Reading], adapters: Adapters, count: int) -> tuple[list[float], int]:
        """The mean loss of every pass as it was met, dropout included, and the steps taken."""
        adam = torch.optim.Adam(adapters.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        losses, taken = [], 0
        for _ in range(self.steps):
            total = 0.0
            for reading in readings:
                loss = self._step(reading, adapters, adam)
                total += loss * len(reading.facts)
                taken += loss >= self.loss_threshold
            losses.append(total / count)
            if losses[-1] < self.loss_threshold:
                break
        return losses, taken

    def _step(self, reading: Reading, adapters: Adapters, adam: torch.optim.Adam) -> float:
        """One optimiser step, unless the loss is small enough; the mean loss before it."""
        loss = (reading.evaluate([]).losses / reading.lengths).mean()
        value = float(loss.detach())
        if value < self.loss_threshold:
            return value
        parameters = adapters.parameters()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        adam.step()
        return value
