"""An estimate of the memory that an edit needs, beside the loaded model.

The memory of autograd is measured on one fact and multiplied; that of passes without gradients and of the
second moments follows from shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editors.data import Fact
from editors.locate.contexts import Groups, flat
from editors.locate.targets import TargetOptimizer
from editors.models.memory import count_saved
from editors.models.model import Model
from editors.models.tokenization import longest_fact, tokenize_prompt
from editors.moments.moment_sources import SITE


@dataclass(frozen=True)
class Memory:
    """Bytes beside the loaded model."""

    statistics: int
    """Preserved matrices of all layers, at their peak during factoring."""
    targets: int
    """One pass of the optimiser of targets, with its gradients."""
    insertion: int
    """The pass that gives the keys."""

    @property
    def peak(self) -> int:
        """The largest sum at one time."""
        return self.statistics + max(self.targets, self.insertion)


def estimated(
    model: Model,
    targets: TargetOptimizer,
    facts: Sequence[Fact],
    groups: Groups,
    layers: Sequence[int],
    aimed: Sequence[int],
) -> Memory:
    """The memory for editing these facts together; `aimed` are the layers that have targets."""
    width = model.weight(SITE, layers[0]).shape[1]
    rows = [tokenize_prompt(model.tokenizer, fact, template) for fact in facts for template in flat(groups)]
    tokens = max(row.subject_last + 1 for row in rows)
    together = min(len(facts), targets.facts_at_once) * len(flat(groups))
    cache, graph = _one_fact(model, targets, facts, groups, aimed)
    at_once = min(len(facts), targets.facts_at_once)
    return Memory(
        statistics=statistics_bytes(width, len(layers)),
        targets=at_once * cache + max(at_once * graph, _forward(model, together * tokens)),
        insertion=_forward(model, len(rows) * tokens),
    )


def statistics_bytes(width: int, layers: int) -> int:
    """Bytes of second moments and inverses for so many layers with keys of this width, in float64.

    Two more matrices are held while one is factored.
    """
    return (2 * layers + 2) * width**2 * torch.float64.itemsize


def _forward(model: Model, tokens: int) -> int:
    """Bytes of a pass without gradients: a block's hidden states, and the activations of its MLP."""
    inner = model.weight(SITE, 0).shape[1]
    return tokens * (6 * model.width + 4 * inner) * model.dtype.itemsize


def _one_fact(
    model: Model, targets: TargetOptimizer, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
) -> tuple[int, int]:
    """Bytes of the cached prefix, and those saved for the gradient, for the longest fact."""
    batch, initial = targets.begin(model, [longest_fact(model.tokenizer, facts)], groups, layers)
    with count_saved(model) as saved:
        predictions = batch.run(torch.zeros_like(initial.vectors, requires_grad=True))
    # gradients of the predictions, once gathered and once split, and of the logits below them
    logits = 3 * (predictions.targets.numel() + predictions.anchor.numel()) * predictions.targets.itemsize
    known = sum(value.numel() * value.itemsize for value in batch.references.values())
    return batch.prompts.held() + known, saved.bytes + logits
