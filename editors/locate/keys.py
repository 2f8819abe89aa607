"""Keys and present values of facts, layer after layer, while the layers are being written.

One recorded pass over all key prompts, cut after the subject, serves every edited layer. Once a layer is
written its output is corrected by the keys times the update, since a down projection's output is added to the
residual stream; only the blocks between two edited layers are run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editors.data import Fact
from editors.locate.contexts import Groups, flat, mean_over
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.partial_forward import Replay, branch
from editors.models.tokenization import Prompted, pad, place
from editors.moments.sources import SITE
from editors.updates import Delta


@dataclass(frozen=True)
class Keys:
    """Inputs of the edited matrix at the subjects, one column a fact."""

    mean: Float[Tensor, "in n"]
    """Averaged over the context templates."""
    bare: Float[Tensor, "in n"]
    """Of the bare prompt."""


class _Flow:
    """Prompts that stand before a block, and what the edited matrix reads of them."""

    def __init__(self, replay: Replay) -> None:
        self.replay, self.hidden = replay, replay.hidden
        self.inputs: Float[Tensor, "row token in"] = replay.hidden

    def step(self, layer: int) -> None:
        """Through one block, with the inputs of its matrix."""
        with capture(inputs={"k": self.replay.model.module(SITE, layer)}) as seen:
            self.hidden = self.replay.run(self.hidden, layer, layer)
        self.inputs = seen["k"]

    def write(self, delta: Delta, first: int, last: int) -> None:
        """Gain Δ times the inputs, then go on."""
        self.hidden = self.hidden + self.inputs @ delta.dense().to(self.inputs).T
        self.hidden = self.replay.run(self.hidden, first, last)


class KeyPass:
    """A pass over the key prompts that stands before the lowest edited block.

    The tokens of a context that several facts share are run once for all of them.
    """

    def __init__(self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]) -> None:
        self.model, self.groups, self.layers = model, groups, layers
        rows = _rows(model, facts, groups)
        ids, shared = [row.ids for row in rows], [row.context for row in rows]
        stems, rest, lengths = branch(model, ids, shared, layers[0], layers[-1])
        self._rows = _Flow(rest)
        # in this order, since the rows read what the stems wrote last
        self._flows = [self._rows] if stems is None else [_Flow(stems), self._rows]
        self._size = len(flat(groups))
        self._subject = torch.tensor([len(row) - 1 for row in ids], device=model.device) - lengths

    def measure(self, layer: int, module: str, averaged: bool) -> tuple[Keys, Float[Tensor, "n out"]]:
        """Keys of `layer`, and what `module` of the last layer writes at the subjects.

        What is written is that of the bare prompts or, if `averaged`, the mean over the templates.
        """
        last, rows = self.layers[-1], torch.arange(len(self._subject), device=self.model.device)
        chosen = rows if averaged else rows[:: self._size]
        with capture(outputs={"v": self.model.module(module, last)}) as seen:
            for flow in self._flows:
                flow.step(layer)
            if layer < last:
                for flow in self._flows[:-1]:
                    flow.replay.run(flow.hidden, layer + 1, last)
                self._rows.replay.select(chosen).run(self._rows.hidden[chosen], layer + 1, last)
        precise = torch.promote_types(self.model.dtype, torch.float32)
        keys = self._rows.inputs[rows, self._subject].to(precise)
        keys = keys.view(-1, self._size, keys.shape[-1])
        written = seen["v"] if layer < last else seen["v"][chosen]
        written = written[torch.arange(len(chosen), device=chosen.device), self._subject[chosen]].to(precise)
        if averaged:
            written = mean_over(self.groups, written.view(-1, self._size, written.shape[-1]))
        return Keys(mean_over(self.groups, keys).T, keys[:, 0].T), written

    def write(self, layer: int, delta: Delta, until: int) -> None:
        """Go on to block `until` as if Δ were in place."""
        for flow in self._flows:
            flow.write(delta, layer + 1, until - 1)


@torch.no_grad()
def keys_of(
    model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
) -> dict[int, Float[Tensor, "in n"]]:
    """Averaged keys of every layer on the weights as they are, in one pass."""
    rows = [row.ids for row in _rows(model, facts, groups)]
    ids, mask = (x.to(model.device) for x in pad(rows))
    modules = {layer: model.module(SITE, layer) for layer in layers}
    with capture(inputs=modules, stop_after=model.block(layers[-1])) as seen:
        model.hidden(ids, mask)
    precise = torch.promote_types(model.dtype, torch.float32)
    at = torch.arange(len(rows), device=ids.device), mask.sum(dim=1) - 1
    shape = (len(facts), len(flat(groups)), -1)
    return {layer: mean_over(groups, seen[layer][at].to(precise).view(shape)).T for layer in layers}


def _rows(model: Model, facts: Sequence[Fact], groups: Groups) -> list[Prompted]:
    """Every fact in every template, cut after the subject: what follows cannot reach its key."""
    placed = [place(model.tokenizer, fact, template) for fact in facts for template in flat(groups)]
    return [replace(row, ids=row.ids[: row.subject_last + 1]) for row in placed]
