"""LTI: targets that make the model answer as if it had read the new fact a moment ago.

The teacher is the same model with `"Imagine that <fact>"` before every prompt. Insertion is MEMIT's or
AlphaEdit's; only the targets differ.

Source: `memit_lti` in scalable-model-editing/knowledge-editing-regularization. That port reads the longer
prompts of the teacher at the student's positions; here every row is read at its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError
from editors.locate.contexts import Groups, flat
from editors.locate.shifted_forward import Initial, Said, Shifted, divergence, shifted
from editors.locate.targets import TargetOptimizer
from editors.models.model import Model


@dataclass(frozen=True, kw_only=True)
class DistilledTargets(TargetOptimizer):
    """In-context distillation at the target's positions and, through the head, in a middle block.

    loss = nll_weight · (mean −log P)
         + last_kl_weight · mean KL(student ‖ teacher) where target tokens are predicted, and after the anchor
         + middle_kl_weight · mean KL(student ‖ teacher) of what norm and head say of the subject's last token
           after block `middle_layer`
         + decay · ‖δ‖ / ‖v_init‖².

    The anchor's teacher is the model itself, without the fact. Means are over all rows of a fact.
    """

    nll_weight: float = 0.125
    last_kl_weight: float = 0.0425
    middle_kl_weight: float = 0.0525
    middle_layer: int
    kl_weight: float = 0.0

    def begin(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layer: int
    ) -> tuple[Shifted, Initial]:
        """Ask the teacher, which is the same batch with a longer context and without a shift.

        Raises:
            ConfigError: for a middle block that no shift reaches.
        """
        top = model.depth - 1 if self.loss_layer is None else self.loss_layer
        if not layer < self.middle_layer <= top:
            raise ConfigError(
                f"targets.middle_layer={self.middle_layer} has to lie above the edited layers (..{layer}) "
                f"and not above block {top} of {model.name}, where the target's likelihood is read"
            )
        batch, initial = super().begin(model, facts, groups, layer)
        batch = replace(batch, middle=self.middle_layer)
        return batch.remember(**self._taught(model, facts, groups, layer)), initial

    def fit(self, batch: Shifted, said: Said, reached: Bool[Tensor, " active"]) -> Float[Tensor, " active"]:
        """The three terms beside the weight decay."""
        assert said.middle is not None
        model, aims = batch.templates.model, batch.aims.real
        last = batch.spread(divergence(said.chosen, batch.kept["last"][aims])).sum(dim=(1, 2))
        last = (last + batch.drift(said)) / (aims.sum(dim=(1, 2)) + 1)
        middle = divergence(model.log_probability(said.middle), batch.kept["middle"]).mean(dim=1)
        return (
            self.nll_weight * batch.likelihood(said)
            + self.last_kl_weight * last
            + self.middle_kl_weight * middle
        )

    @torch.no_grad()
    def _taught(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layer: int
    ) -> dict[str, Float[Tensor, "fact ..."]]:
        """The teacher's log-distributions: at every target token, and in the middle."""
        contexts = [
            [f"Imagine that {fact.statement} {fact.target_new}\n{template}" for template in flat(groups)]
            for fact in facts
        ]
        teacher, initial = shifted(model, facts, contexts, layer, self.parts, self.inside, self.loss_layer)
        teacher = replace(teacher, middle=self.middle_layer)
        said = teacher.run(torch.zeros_like(initial.vectors))
        assert said.middle is not None
        last = said.chosen.new_zeros(*teacher.aims.tokens.shape, said.chosen.shape[-1])
        last[teacher.aims.real] = said.chosen
        return {"last": last, "middle": model.log_probability(said.middle)}
