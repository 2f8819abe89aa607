"""The shared parts of editors whose update follows from gradients of the facts' loss.

`GradientEditor` checks the matrices, applies the regularizers and refuses updates with NaN or infinity;
`AdamEditor` adds the training loop of the editors that take many steps on one batch of facts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Cause, Edit, Editor
from editors.data import Fact
from editors.errors import NumericsError, check_not_negative, check_positive
from editors.models.gradients import (
    Evaluation,
    Objective,
    Reading,
    check_sites,
    graph_bytes,
    read_in_parts,
)
from editors.models.model import Model
from editors.phases import Report, silent
from editors.regularizers.base import Progress, Regularizer
from editors.regularizers.composition import RegularizerChain
from editors.updates import Delta, Site, WeightUpdate

Step = Callable[[Evaluation, Float[Tensor, ""]], None]
"""One optimiser step, given an evaluation and the loss computed from it."""


@dataclass(kw_only=True)
class GradientEditor(Editor):
    """An editor that finds the updates of all its matrices together, from gradients of the facts' loss."""

    name: str
    regularizers: Mapping[str, Regularizer] = field(default_factory=dict)
    """Regularizers that act on updates or written weights; any other kind is refused."""

    remedy: ClassVar[str] = "compute in float32"
    """The way out that is named in the message about an update with NaN or infinity."""

    def __post_init__(self) -> None:
        self._chain = RegularizerChain(self.regularizers, self.name, ("update", "weight"))

    def check(self, model: Model) -> None:
        """Raise a `ConfigError` that names the first matrix that the model does not have."""
        check_sites(model, self.sites)

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Check that the model has the matrices, and prepare the regularizers on the unedited model."""
        self.check(model)
        if not self.edits:
            self._chain.prepare(model, self.sites)

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: the graph of the whole batch."""
        self.check(model)
        return len(facts) * graph_bytes(model, facts, "teacher_forced", self.sites)

    def regularized(self, update: WeightUpdate, model: Model, facts: Sequence[Fact]) -> dict[Site, Delta]:
        """The update after all regularizers.

        Raises:
            NumericsError: for NaN or infinity in a change, with the matrix and the first fact.
        """
        progress = Progress(self.edits, self.edits + len(facts))
        update = self._chain.shape(update, model, facts, progress)
        for site, delta in update.items():
            if not delta.is_finite():
                raise NumericsError(
                    f"the update of {site} is not finite (norm {delta.norm():.3g}) while editing "
                    f"{len(facts)} facts from {facts[0].id} on; {self.remedy}; nothing was changed"
                )
        return update

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Count the facts of an applied edit, and let the regularizers remember it."""
        super().commit(model, facts, edit)
        self._chain.commit()

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of edits, and the state of the regularizers."""
        return super().state_dict(since) | self._chain.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from them, after `prepare`."""
        super().load_state_dict(state)
        self._chain.load_state_dict(state)


@dataclass(kw_only=True)
class AdamEditor(GradientEditor):
    """An editor that minimises the mean loss of the facts with Adam, in passes over the batch."""

    objective: Objective
    """`prompt_last` reads every target token after the prompt; `teacher_forced` after those before it."""
    steps: int
    """Largest number of passes over the batch."""
    learning_rate: float
    """Adam's step size; lower it if losses become NaN."""
    weight_decay: float = 0.0
    """Multiple of each trained parameter that is added to its gradient."""
    facts_at_once: int = 64
    """Facts in one optimiser step; more need more memory."""
    ends: bool = False
    """Whether the tokenizer's end of text is trained as the last token of every target."""
    shuffle_seed: int | None = None
    """Seed of a new order of the facts in every pass; null keeps the order that they were given in."""
    loss_threshold: float
    """Parts whose mean loss is below it take no step; the edit ends once that of the batch is below it."""

    remedy: ClassVar[str] = "lower editor.learning_rate"

    def __post_init__(self) -> None:
        check_positive(
            "editor", steps=self.steps, learning_rate=self.learning_rate, facts_at_once=self.facts_at_once
        )
        check_not_negative("editor", weight_decay=self.weight_decay)
        super().__post_init__()

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: the graph of one optimiser step."""
        self.check(model)
        at_once = min(len(facts), self.facts_at_once)
        return at_once * graph_bytes(model, facts, self.objective, self.sites)

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """The length of the training: it has no targets, and its result is the update."""
        return {"edit": f"raise editor.steps ({self.steps}) or editor.learning_rate ({self.learning_rate:g})"}

    def adam(self, parameters: Iterable[Tensor]) -> torch.optim.Adam:
        """A new optimiser of these parameters."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)

    def minimise(
        self, model: Model, facts: Sequence[Fact], sites: Sequence[Site], step: Step
    ) -> dict[str, float]:
        """Take steps until the loss is below the threshold or all passes are done.

        `sites` are the matrices whose inputs and outputs each evaluation records for `step`. Returns the mean
        loss of the first and of the last pass, each part measured before its step, and the number of steps.
        """
        losses, steps = [], 0
        for readings in self._passes(model, facts):
            total = 0.0
            for reading in readings:
                loss = self._descend(reading, sites, step)
                total += loss * len(reading.facts)
                if loss >= self.loss_threshold:
                    steps += 1
            losses.append(total / len(facts))
            if losses[-1] < self.loss_threshold:
                break
        return {"loss_start": losses[0], "loss_end": losses[-1], "optimiser_steps": float(steps)}

    def _passes(self, model: Model, facts: Sequence[Fact]) -> Iterator[Sequence[Reading]]:
        """The facts of every pass in parts of `facts_at_once`, run up to the lowest trained block.

        Training changes nothing below that block, so that facts in the same order are read once.
        """
        readings: Sequence[Reading] = ()
        for number in range(self.steps):
            if self.shuffle_seed is not None or not readings:
                ordered = [facts[place] for place in self._order(number, len(facts))]
                readings = read_in_parts(
                    model, ordered, self.objective, self.sites, self.facts_at_once, ends=self.ends
                )
            yield readings

    def _order(self, number: int, count: int) -> Sequence[int]:
        """The places of the facts in one pass, another in every edit and pass if they are shuffled."""
        if self.shuffle_seed is None:
            return range(count)
        return np.random.default_rng([self.shuffle_seed, self.edits, number]).permutation(count).tolist()

    def _descend(self, reading: Reading, sites: Sequence[Site], step: Step) -> float:
        """One step, unless the loss is below the threshold; the mean loss before it."""
        evaluation = reading.evaluate(sites)
        if evaluation.value >= self.loss_threshold:
            step(evaluation, evaluation.mean)
        return evaluation.value
