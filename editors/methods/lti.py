"""LTI: targets that make the model answer as if the new fact stood in its context.

The teacher is the same model with `"Imagine that <fact>"` before every prompt. Insertion is MEMIT's or
AlphaEdit's; only the targets differ.

Source: `memit_lti` in scalable-model-editing/knowledge-editing-regularization. That port reads the teacher's
longer prompts at the student's positions; here every row is read at its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError
from editors.locate.contexts import Groups, flat
from editors.locate.shifted_forward import InitialState, Predictions, ShiftedForward, divergence
from editors.locate.targets import TargetOptimizer
from editors.models.model import Model


@dataclass(frozen=True, kw_only=True)
class DistilledTargets(TargetOptimizer):
    """In-context distillation at the target's positions and, through the head, in a middle block.

    loss = nll_weight · (mean −log P)
         + last_kl_weight · mean KL(student ‖ teacher) at the target's positions and after the anchor
         + middle_kl_weight · mean KL(student ‖ teacher) of the predictions, through norm and head, at the
           subject's last token after block `middle_layer`
         + decay · ‖δ‖ / ‖v_init‖².

    The anchor's teacher is the model itself, without the fact. Means are over all rows of a fact.
    """

    nll_weight: float = 0.125
    """Weight of the new object's likelihood."""
    last_kl_weight: float = 0.0425
    """Weight of the distillation at the last block."""
    middle_kl_weight: float = 0.0525
    """Weight of the distillation at the middle block."""
    middle_layer: int
    """The middle block; it has to lie above the edited ones."""
    kl_weight: float = 0.0

    def begin(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
    ) -> tuple[ShiftedForward, InitialState]:
        """Run the student's prompts, and the teacher: the same batch with longer contexts and no shift.

        Raises:
            ConfigError: for a middle block that no shift reaches.
        """
        top = model.depth - 1 if self.loss_layer is None else self.loss_layer
        if not layers[-1] < self.middle_layer <= top:
            raise ConfigError(
                f"targets.middle_layer={self.middle_layer} has to lie above the edited layers "
                f"(..{layers[-1]}) and not above block {top} of {model.name}, where the target's likelihood "
                "is read"
            )
        batch, initial = super().begin(model, facts, groups, layers)
        batch = replace(batch, middle=self.middle_layer)
        return batch.with_references(**self._teacher(model, facts, groups, layers)), initial

    def contexts_of(self, facts: Sequence[Fact], groups: Groups) -> Sequence[Sequence[str]]:
        """The templates, and those of the teacher, which begin with the new fact."""
        return [[*flat(groups), *_imagined(fact, groups)] for fact in facts]

    def fit(
        self, batch: ShiftedForward, predictions: Predictions, reached: Bool[Tensor, " active"]
    ) -> Float[Tensor, " active"]:
        """The three terms besides the weight decay."""
        assert predictions.middle is not None
        model, positions = batch.prompts.model, batch.positions
        teacher = batch.references["last"][positions.index]
        last = batch.spread(divergence(predictions.targets, teacher)).sum(dim=(1, 2))
        rows = positions.tokens.shape[1] * positions.lengths.to(last.device)
        last = (last + batch.drift(predictions)) / (rows + 1)
        middle = divergence(model.log_probability(predictions.middle), batch.references["middle"]).mean(dim=1)
        return (
            self.nll_weight * batch.likelihood(predictions)
            + self.last_kl_weight * last
            + self.middle_kl_weight * middle
        )

    @torch.no_grad()
    def _teacher(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
    ) -> dict[str, Float[Tensor, "fact ..."]]:
        """The teacher's log-distributions: at every target token, and in the middle."""
        contexts = [_imagined(fact, groups) for fact in facts]
        teacher, initial = self.run(model, facts, contexts, layers)
        teacher = replace(teacher, middle=self.middle_layer)
        predictions = teacher.run(torch.zeros_like(initial.vectors))
        assert predictions.middle is not None
        last = predictions.targets.new_zeros(*teacher.positions.tokens.shape, predictions.targets.shape[-1])
        last[teacher.positions.index] = predictions.targets
        return {"last": last, "middle": model.log_probability(predictions.middle)}


def _imagined(fact: Fact, groups: Groups) -> list[str]:
    """The templates of the teacher."""
    return [f"Imagine that {fact.statement} {fact.target_new}\n{template}" for template in flat(groups)]
