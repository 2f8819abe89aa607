"""Target vectors: the output of an edited block at a subject that makes the model predict the new object.

All facts of a batch are optimised together, yet each as if it were alone: the losses are summed; Adam's
state, the norm bound and the stopping belong to a fact; and a fact that is final leaves the batch.

If a norm lies between the MLP and the residual stream (Gemma 2 and 3, OLMo 2), a vector of the stream need
not be one that the norm can write. The shift then acts on the output of the MLP, before that norm, whatever
the `reference`; and since a share of it that a lower block writes would not arrive as that share, every
edited block has a shift of its own, all found by one optimisation, each with its own bound and decay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.base import Targets
from editors.data import Fact
from editors.errors import ConfigError, NumericsError, check_not_negative, check_positive
from editors.locate.contexts import Groups, flat
from editors.locate.processes import spread
from editors.locate.shifted_forward import InitialState, Predictions, ShiftedForward, run_to_shift
from editors.models.model import Model
from editors.models.modules.products import has_bfloat16_products, onednn_products
from editors.models.tokenization import tokenize_prompt
from editors.regularizers.base import Regularizer


@dataclass(frozen=True, kw_only=True)
class TargetOptimizer:
    """Adam on a shift δ of the hidden state at the subject's last token, in at least float32.

    loss = mean over templates of the mean over target tokens of −log P(token)
         + kl_weight · KL(P_δ ‖ P_0) at the subject of the anchor prompt
         + decay · ‖δ‖ / ‖v_init‖²,  with ‖δ‖ ≤ max_norm_ratio · ‖v_init‖ after every step.

    Source: ROME (arXiv 2202.05262) and MEMIT (arXiv 2210.07229) with their code, `compute_v`, `compute_z`:
    the first power of ‖δ‖ over the squared norm and the last evaluation without a step are theirs.
    """

    steps: int = 20
    """Evaluations of the loss; the last one is not followed by a step."""
    learning_rate: float = 0.5
    """Adam's step size."""
    kl_weight: float = 0.0625
    """Weight of keeping the anchor's distribution; a larger one keeps the subject closer to what it was."""
    decay: float = 0.5
    """Weight of ‖δ‖ / ‖v_init‖²; a larger one gives shorter shifts."""
    max_norm_ratio: float = 4.0
    """Bound of ‖δ‖ in units of ‖v_init‖."""
    loss_threshold: float = 0.05
    """A target whose loss is below it is final."""
    reference: Literal["block", "mlp"] = "block"
    """The module whose output at the subject is v_init: the block (MEMIT) or the MLP (ROME). It is always the
    MLP if a norm follows that."""
    loss_layer: int | None = None
    """Block whose output, through norm and head, gives the target's likelihood; null is the last."""
    facts_at_once: int = 50
    """Facts optimised in one pass; more need more memory. The result does not depend on it."""
    precision: Literal["bfloat16"] | None = None
    """bfloat16 rounds the factors of products with weights in the steps (sums stay in float32), but none that
    give v_init or what is inserted; null rounds nothing."""

    inside: ClassVar[bool] = False
    """Whether the shift acts inside the block and so changes the input of the block's later modules."""

    def __post_init__(self) -> None:
        names = ("steps", "learning_rate", "max_norm_ratio", "facts_at_once")
        check_positive("targets", **{name: getattr(self, name) for name in names})
        weights = [field.name for field in fields(self) if field.name.endswith("weight")]
        check_not_negative("targets", **{name: getattr(self, name) for name in (*weights, "decay")})

    @property
    def parts(self) -> Sequence[str]:
        """Sub-modules of a block whose output is shifted; the last one's vector is the target."""
        return (self.reference,)

    @property
    def remedy(self) -> str:
        """The settings to change if the optimisation ends before the new object is the first choice."""
        return (
            f"raise editor.targets.steps ({self.steps}), editor.targets.learning_rate "
            f"({self.learning_rate:g}) or editor.targets.max_norm_ratio ({self.max_norm_ratio:g})"
        )

    def check(self, model: Model) -> None:
        """Raise a `ConfigError` if the products of this model cannot have the precision asked for."""
        if self.precision is None:
            return
        key = f"editor.targets.precision={self.precision}"
        if model.device.type != "cpu" or model.dtype != torch.float32:
            kind = f"{str(model.dtype).removeprefix('torch.')} on {model.device.type}"
            raise ConfigError(
                f"{key} is for a float32 model on a CPU, and {model.name} is {kind}: leave it out"
            )
        if not has_bfloat16_products():
            raise ConfigError(
                f"{key} needs a CPU with bfloat16 instructions, which this one lacks: leave it out"
            )

    def contexts_of(self, facts: Sequence[Fact], groups: Groups) -> Sequence[Sequence[str]]:
        """The templates in which each fact is read."""
        return [flat(groups)] * len(facts)

    def find(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int], stop: Regularizer
    ) -> Targets:
        """Optimise the targets of all facts, together for all of these blocks.

        There is one block, unless a norm follows the MLP. Several processes of a run optimise a share each,
        and have all targets then.

        Raises:
            NumericsError: for a loss that is NaN or infinite, with the fact's id.
        """

        def found(share: Sequence[int]) -> Targets:
            parts = ([facts[i] for i in part] for part in _chunks(share, self.facts_at_once))
            return Targets.joined([self._optimise(model, part, groups, layers, stop) for part in parts])

        order = sorted(range(len(facts)), key=lambda i: _tail(model, facts[i]))
        shares = spread(order, found)
        back = torch.tensor([i for share, _ in shares for i in share]).argsort()
        return Targets.joined([one for _, one in shares]).at(back).to(model.device)

    def begin(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
    ) -> tuple[ShiftedForward, InitialState]:
        """Run the prompts once, up to the shift; returns the batch and v_init.

        Raises:
            ConfigError: for a loss layer that no shift reaches.
        """
        if self.loss_layer is not None and not layers[-1] < self.loss_layer < model.depth:
            raise ConfigError(
                f"targets.loss_layer={self.loss_layer} has to lie above the edited layers (..{layers[-1]}) "
                f"and below {model.depth}, the depth of {model.name}"
            )
        return self.run(model, facts, [flat(groups)] * len(facts), layers)

    def run(
        self,
        model: Model,
        facts: Sequence[Fact],
        contexts: Sequence[Sequence[str]],
        layers: Sequence[int],
    ) -> tuple[ShiftedForward, InitialState]:
        """Run every fact once in its own contexts, up to the shifts of these blocks."""
        parts = (*self.parts[:-1], "mlp") if model.has_normed_mlp else self.parts
        places = [(part, layer) for layer in layers for part in parts]
        return run_to_shift(
            model, facts, contexts, places, self.inside or model.has_normed_mlp, self.loss_layer
        )

    def fit(
        self, batch: ShiftedForward, predictions: Predictions, reached: Bool[Tensor, " active"]
    ) -> Float[Tensor, " active"]:
        """The part of the loss that asks for the new object; `reached` if it was the first choice before."""
        return batch.likelihood(predictions)

    def settled(
        self, drift: Float[Tensor, " active"], correct: Bool[Tensor, "active template"]
    ) -> Bool[Tensor, " active"]:
        """The targets that are final by a rule of this optimiser, besides the threshold of the loss."""
        return torch.zeros_like(drift, dtype=torch.bool)

    def _optimise(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int], stop: Regularizer
    ) -> Targets:
        with onednn_products(model.hf):
            batch, initial = self.begin(model, facts, groups, layers)
        with onednn_products(model.hf, rounded=self.precision == "bfloat16"):
            return self._descend(facts, batch, initial, stop)

    def _descend(
        self, facts: Sequence[Fact], batch: ShiftedForward, initial: InitialState, stop: Regularizer
    ) -> Targets:
        """Adam on the shifts of all facts; a fact that is final leaves the batch."""
        norms = initial.vectors.norm(dim=2, keepdim=True)
        shift = torch.zeros_like(initial.vectors, requires_grad=True)
        adam = torch.optim.Adam([shift], lr=self.learning_rate)
        final_shift, losses = torch.zeros_like(initial.vectors), torch.zeros_like(norms[:, 0, 0])
        steps, hits = (torch.zeros(len(facts), dtype=torch.long, device=shift.device) for _ in range(2))
        bare, reached = (torch.zeros(len(facts), dtype=torch.bool, device=shift.device) for _ in range(2))
        for step in range(self.steps):
            active, predictions = batch.facts, batch.run(shift)
            if step == 0:
                batch = batch.with_references(anchor=predictions.anchor.detach())
            correct, drift = batch.correct(predictions), self.kl_weight * batch.drift(predictions)
            decay = (self.decay * shift[active].norm(dim=2) / norms[active, :, 0] ** 2).sum(dim=1)
            loss = self.fit(batch, predictions, reached[active]) + drift + decay
            reached[active] = correct.all(dim=1)
            hits[active] += stop.satisfied(correct).long()
            done = (loss.detach() < self.loss_threshold) | self.settled(drift.detach(), correct)
            if stop.patience:
                done |= hits[active] >= stop.patience
            # the only time in a step that the host waits for the device
            finite, done = torch.stack([loss.detach().isfinite(), done]).cpu()
            _check(finite, facts, active, shift)
            if step == self.steps - 1:
                done = torch.ones_like(done)
            if bool(done.any()):
                ended = done.nonzero()[:, 0].to(active.device)
                final = active[ended]
                final_shift[final], losses[final] = shift.detach()[final], loss.detach()[ended]
                steps[final], bare[final] = step, correct[ended, 0]
            if bool(done.all()):
                break
            rest = (~done).nonzero()[:, 0]
            adam.zero_grad()
            loss[rest.to(loss.device)].sum().backward()
            adam.step()
            with torch.no_grad():
                bound = self.max_norm_ratio * norms / shift.norm(dim=2, keepdim=True).clamp(min=1e-30)
                shift *= bound.clamp(max=1.0)
            if len(rest) < len(done):
                batch = batch.select(rest)
        parts = len(self.parts)
        start, shifts = (each[:, parts - 1 :: parts] for each in (initial.vectors, final_shift))
        return Targets(start + shifts, start, initial.written, losses, steps, bare)


def _tail(model: Model, fact: Fact) -> int:
    """Number of tokens from the subject's last one on; facts of equal number share a pass without padding."""
    row = tokenize_prompt(model.tokenizer, fact, target=fact.target_new)
    return len(row.ids) - row.subject_last


def _chunks(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def _check(finite: Bool[Tensor, " active"], facts: Sequence[Fact], active: Tensor, shift: Tensor) -> None:
    """Raise a `NumericsError` for the first fact, if any, whose loss is NaN or infinite."""
    if bool(finite.all()):
        return
    index = int(active[int(finite.long().argmin())])
    raise NumericsError(
        f"the loss of the target of fact {facts[index].id} is not finite (norm of its shift: "
        f"{float(shift.detach()[index].norm()):.3g}); lower targets.learning_rate or compute in float32"
    )
