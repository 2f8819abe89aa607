"""How much memory an edit will need, before it is made.

What autograd keeps is measured on one fact and multiplied; what passes without gradients and the second
moments need follows from shapes. The estimate is of what comes on top of the loaded model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editors.data import Fact
from editors.locate.contexts import Groups, flat
from editors.locate.targets import TargetOptimizer
from editors.models.memory import kept
from editors.models.model import Model
from editors.models.tokenization import longest, place
from editors.moments.sources import SITE


@dataclass(frozen=True)
class Memory:
    """Bytes beside the loaded model."""

    statistics: int
    """Of what every layer preserves, at the most while it is factored."""
    targets: int
    """Of one pass of the optimiser of targets with its gradients."""
    insertion: int
    """Of the pass that serves the keys."""

    @property
    def peak(self) -> int:
        """At the most at one time."""
        return self.statistics + max(self.targets, self.insertion)


def estimated(
    model: Model, targets: TargetOptimizer, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
) -> Memory:
    """Of editing these facts together."""
    width = model.weight(SITE, layers[0]).shape[1]
    rows = [place(model.tokenizer, fact, template) for fact in facts for template in flat(groups)]
    tokens = max(row.subject_last + 1 for row in rows)
    together = min(len(facts), targets.facts_at_once) * len(flat(groups))
    cache, graph = _one_fact(model, targets, facts, groups, layers[-1])
    at_once = min(len(facts), targets.facts_at_once)
    return Memory(
        # the second moments and the inverses of all layers, and two more matrices while one is factored
        statistics=(2 * len(layers) + 2) * width**2 * torch.float64.itemsize,
        targets=at_once * cache + max(at_once * graph, _forward(model, together * tokens)),
        insertion=_forward(model, len(rows) * tokens),
    )


def _forward(model: Model, tokens: int) -> int:
    """Of a pass without gradients: a block's hidden states, and those of the MLP's activation."""
    inner = model.weight(SITE, 0).shape[1]
    return tokens * (6 * model.width + 4 * inner) * model.dtype.itemsize


def _one_fact(
    model: Model, targets: TargetOptimizer, facts: Sequence[Fact], groups: Groups, layer: int
) -> tuple[int, int]:
    """Bytes of the cached prefix, and of what is kept for the gradient, of the longest fact."""
    batch, initial = targets.begin(model, [longest(model.tokenizer, facts)], groups, layer)
    with kept(model) as graph:
        said = batch.run(torch.zeros_like(initial.vectors, requires_grad=True))
    # gradients of what is said, where it is gathered and where it is split, and of the logits below it
    logits = 3 * (said.chosen.numel() + said.anchor.numel()) * said.chosen.itemsize
    known = sum(value.numel() * value.itemsize for value in batch.kept.values())
    return batch.templates.held() + batch.anchors.held() + known, graph.bytes + logits
