"""Keys and current values of facts, layer after layer, while the layers are being written.

One recorded pass over all key prompts, cut after the subject, serves every edited layer. Once a layer is
written its output is corrected by the keys times the update, since a down projection's output is added to the
residual stream, or by the difference that they make after the norm behind the MLP if there is one; only the
blocks between two edited layers are run again.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from editors.data import Fact
from editors.locate.contexts import Groups, flat, mean_over
from editors.models.hooks import capture, replace_output
from editors.models.model import Model
from editors.models.partial_forward import PartialForward, branch
from editors.models.tokenization import TokenizedPrompt, pad, tokenize_prompt
from editors.moments.moment_sources import SITE
from editors.updates import Delta


@dataclass(frozen=True)
class Keys:
    """Inputs of the edited matrix at the subjects, one column per fact."""

    mean: Float[Tensor, "in n"]
    """Averaged over the context templates."""
    bare: Float[Tensor, "in n"]
    """Inputs of the bare prompts."""


class _Flow:
    """Prompts run up to a block, and inputs and outputs of the edited matrix in the last block."""

    def __init__(self, forward: PartialForward) -> None:
        self.forward, self.hidden = forward, forward.hidden
        self.inputs: Float[Tensor, "row token in"] = forward.hidden
        self.outputs: Float[Tensor, "row token out"] = forward.hidden

    def step(self, layer: int) -> None:
        """Run one block and record inputs and outputs of its matrix."""
        matrix = self.forward.model.module(SITE, layer)
        with capture(inputs={"k": matrix}, outputs={"v": matrix}) as captured:
            self.hidden = self.forward.run(self.hidden, layer, layer)
        self.inputs, self.outputs = captured["k"], captured["v"]

    def write(self, layer: int, delta: Delta, last: int) -> None:
        """Let Δ act in block `layer`, which was run last, then run the blocks above it up to `last`."""
        change = self.inputs @ delta.dense().to(self.inputs).T
        norm = self.forward.model.output_norm("mlp", layer)
        if norm is not None:
            change = norm(self.outputs + change) - norm(self.outputs)
        self.hidden = self.forward.run(self.hidden + change, layer + 1, last)


class KeyPass:
    """A pass over the key prompts, which starts at the lowest edited block.

    The tokens of a context that several facts share are run once for all of them.
    """

    def __init__(self, model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]) -> None:
        self.model, self.groups, self.layers = model, groups, layers
        rows = _rows(model, facts, groups)
        ids, shared = [row.ids for row in rows], [row.context for row in rows]
        stems, rest, lengths = branch(model, ids, shared, layers[0], layers[-1])
        self._rows = _Flow(rest)
        # stems first, because the rows read their latest keys and values
        self._flows = [self._rows] if stems is None else [_Flow(stems), self._rows]
        self._size = len(flat(groups))
        self._subject = torch.tensor([len(row) - 1 for row in ids], device=model.device) - lengths

    def measure(
        self, layer: int, module: str, averaged: bool, last: int
    ) -> tuple[Keys, Float[Tensor, "n out"]]:
        """Keys of `layer`, and the output of `module` in block `last` at the subjects.

        The output is that of the bare prompts or, if `averaged`, the mean over the templates.
        """
        rows = torch.arange(len(self._subject), device=self.model.device)
        selected = rows if averaged else rows[:: self._size]
        with capture(outputs={"v": self.model.module(module, last)}) as captured:
            for flow in self._flows:
                flow.step(layer)
            if layer < last:
                for flow in self._flows[:-1]:
                    flow.forward.run(flow.hidden, layer + 1, last)
                self._rows.forward.select(selected).run(self._rows.hidden[selected], layer + 1, last)
        precise = torch.promote_types(self.model.dtype, torch.float32)
        keys = self._rows.inputs[rows, self._subject].to(precise)
        keys = keys.view(-1, self._size, keys.shape[-1])
        output = captured["v"] if layer < last else captured["v"][selected]
        at = torch.arange(len(selected), device=selected.device), self._subject[selected]
        output = output[at].to(precise)
        if averaged:
            output = mean_over(self.groups, output.view(-1, self._size, output.shape[-1]))
        return Keys(mean_over(self.groups, keys).T, keys[:, 0].T), output

    def replayed(self, targets: Float[Tensor, "n out"]) -> dict[int, Float[Tensor, "n out"]]:
        """Outputs of every edited block at the subjects of the bare prompts, with `targets` at the lowest.

        Called before anything is written.
        """
        first = self.layers[0]
        forward, hidden, at = self._bare()
        hidden = forward.run(hidden, first, first).clone()
        hidden[at] = targets.to(hidden)
        goals = {first: targets}
        for below, layer in pairwise(self.layers):
            hidden = forward.run(hidden, below + 1, layer)
            goals[layer] = hidden[at].to(targets)
        return goals

    def shifted(self, shifts: Float[Tensor, "n layer out"]) -> dict[int, Float[Tensor, "n out"]]:
        """Outputs of the MLP of every edited block at the subjects of the bare prompts, with a shift in each.

        Called before anything is written.
        """
        forward, hidden, at = self._bare()
        mlps = {layer: self.model.module("mlp", layer) for layer in self.layers}
        with ExitStack() as hooks:
            for i, mlp in enumerate(mlps.values()):
                hooks.enter_context(replace_output(mlp, partial(_add_at, at=at, shift=shifts[:, i])))
            outputs = hooks.enter_context(capture(outputs=mlps))  # after the shifts, which it includes
            forward.run(hidden, self.layers[0], self.layers[-1])
        return {layer: outputs[layer][at].to(shifts) for layer in self.layers}

    def _bare(self) -> tuple[PartialForward, Float[Tensor, "n token width"], tuple[Tensor, Tensor]]:
        """The bare prompts, their hidden states, row and column of their subjects; stems are run first."""
        bare = torch.arange(0, len(self._subject), self._size, device=self.model.device)
        for flow in self._flows[:-1]:
            flow.forward.run(flow.hidden, self.layers[0], self.layers[-1])
        at = torch.arange(len(bare), device=bare.device), self._subject[bare]
        return self._rows.forward.select(bare), self._rows.hidden[bare], at

    def write(self, layer: int, delta: Delta, until: int) -> None:
        """Run up to block `until` as if Δ were in place."""
        for flow in self._flows:
            flow.write(layer, delta, until - 1)


def _add_at(
    hidden: Float[Tensor, "row token width"], at: tuple[Tensor, Tensor], shift: Float[Tensor, "row width"]
) -> Float[Tensor, "row token width"]:
    """Add the shift to one token of every row."""
    return hidden.index_put(at, shift.to(hidden), accumulate=True)


@torch.no_grad()
def keys_of(
    model: Model, facts: Sequence[Fact], groups: Groups, layers: Sequence[int]
) -> dict[int, Float[Tensor, "in n"]]:
    """Averaged keys of every layer with the current weights, in one pass."""
    rows = [row.ids for row in _rows(model, facts, groups)]
    ids, mask = (x.to(model.device) for x in pad(rows))
    modules = {layer: model.module(SITE, layer) for layer in layers}
    with capture(inputs=modules, stop_after=model.block(layers[-1])) as captured:
        model.hidden(ids, mask)
    precise = torch.promote_types(model.dtype, torch.float32)
    at = torch.arange(len(rows), device=ids.device), mask.sum(dim=1) - 1
    shape = (len(facts), len(flat(groups)), -1)
    return {layer: mean_over(groups, captured[layer][at].to(precise).view(shape)).T for layer in layers}


def _rows(model: Model, facts: Sequence[Fact], groups: Groups) -> list[TokenizedPrompt]:
    """Every fact in every template, cut after the subject because later tokens cannot reach its key."""
    prompts = [
        tokenize_prompt(model.tokenizer, fact, template) for fact in facts for template in flat(groups)
    ]
    return [replace(row, ids=row.ids[: row.subject_last + 1]) for row in prompts]
