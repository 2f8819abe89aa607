"""Gradients of a loss on the targets of facts, or on texts, by the outputs of named matrices.

For a linear map W with keys h (inputs) and gradients g of its outputs, ∂loss/∂W = Σ g hᵀ over tokens. So
no parameter needs a gradient of its own, whichever way a family stores a matrix (transposed, fused). Blocks
below the lowest named one are run once; the head runs only at the positions that predict a target.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.models.hooks import capture
from editors.models.memory import count_saved
from editors.models.model import Model
from editors.models.partial_forward import PartialForward, record
from editors.models.tokenization import TokenizedPrompt, longest_fact, pad, tokenize_prompt
from editors.updates import Site, at_least_float32

Objective = Literal["prompt_last", "teacher_forced"]
"""Positions that predict target tokens: all at the prompt's end, or each after the tokens before it."""


@dataclass(frozen=True)
class TokenGradients:
    """The input of one matrix at every token, and the gradient of the loss by its output there."""

    keys: Float[Tensor, "token in"]
    outputs: Float[Tensor, "token out"]
    """∂loss/∂output."""

    def weight_gradient(self) -> Float[Tensor, "out in"]:
        """∂loss/∂W = Σ g hᵀ."""
        return self.outputs.T @ self.keys

    def features(self) -> Float[Tensor, "token both"]:
        """Inputs and gradients side by side."""
        return torch.cat([self.keys, self.outputs], dim=1)


@dataclass(frozen=True)
class Evaluation:
    """Losses of one pass with its graph, and the inputs and outputs of the named matrices in it."""

    losses: Float[Tensor, " fact"]
    """Sum over each fact's target tokens of −log P(token)."""
    mean: Float[Tensor, ""]
    """Mean over facts of the mean over target tokens."""
    value: float
    """The same number, without its graph."""
    inputs: Mapping[Site, Tensor]
    outputs: Mapping[Site, Tensor]
    reading: "Reading"

    def keys(self, site: Site) -> Float[Tensor, "token in"]:
        """The inputs of one matrix at every token, at least in float32."""
        return at_least_float32(self.inputs[site].detach()[self.reading.tokens])

    def gradients(self, loss: Float[Tensor, ""], *, predicting: bool = False) -> dict[Site, TokenGradients]:
        """Keys and gradients of every matrix at every token, at least in float32.

        With `predicting` only at the tokens that predict a target.
        """
        sites = list(self.outputs)
        gradients = torch.autograd.grad(loss, [self.outputs[site] for site in sites])
        tokens = self.reading.positions if predicting else self.reading.tokens
        pairs = zip(sites, gradients, strict=True)
        return {site: self._at_tokens(site, gradient, tokens) for site, gradient in pairs}

    def _at_tokens(
        self,
        site: Site,
        gradient: Float[Tensor, "row token wide"],
        tokens: tuple[Tensor, Tensor],
    ) -> TokenGradients:
        model = self.reading.forward.model
        rows = model.family.fused.get(site.name)
        if rows is not None:
            gradient = gradient[..., rows(model.hf.config)]
        keys = self.inputs[site].detach()[tokens]
        return TokenGradients(at_least_float32(keys), at_least_float32(gradient[tokens]))


@dataclass(frozen=True)
class Reading:
    """A batch of facts or texts, run up to a block, and the positions that predict its target tokens."""

    facts: Sequence[Fact]
    """None for texts."""
    forward: PartialForward
    real: Bool[Tensor, "row token"]
    """False for padding; on the host, because the shape of `tokens` depends on it."""
    positions: tuple[Int[Tensor, " position"], Int[Tensor, " position"]]
    """Row and column of every predicting position."""
    source: Int[Tensor, " target"]
    """Index into `positions` for each target token."""
    targets: Int[Tensor, " target"]
    """The target tokens."""
    owner: Int[Tensor, " target"]
    """Index of the fact that each target token belongs to."""
    lengths: Int[Tensor, " fact"]
    """Number of target tokens of each fact."""

    @cached_property
    def tokens(self) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """Row and column of every token that is no padding."""
        row, column = (place.to(self.owner.device) for place in self.real.nonzero(as_tuple=True))
        return row, column

    @torch.enable_grad()
    def evaluate(self, sites: Sequence[Site]) -> Evaluation:
        """Run the remaining blocks with the current weights and score the targets.

        The host waits for the device once.

        Raises:
            NumericsError: for a loss that is NaN or infinite, with the fact's id.
        """
        model, modules = self.forward.model, {}
        for site in sites:
            modules[site] = model.module(site.name, site.layer)
        start = self.forward.hidden.detach().requires_grad_()
        with capture(inputs=modules) as inputs, capture(outputs=modules) as outputs:
            top = self.forward.run(start, self.forward.first, model.depth - 1)
        predictions = model.log_probability(top[self.positions])
        nll = -predictions[self.source, self.targets]
        losses = torch.zeros(len(self.lengths), dtype=nll.dtype, device=nll.device)
        losses = losses.index_add(0, self.owner, nll)
        mean = (losses / self.lengths).mean()
        value = float(mean.detach())
        if not math.isfinite(value):
            self._refuse(losses.detach())
        return Evaluation(losses, mean, value, inputs, outputs, self)

    def _refuse(self, losses: Float[Tensor, " fact"]) -> None:
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        if not bad:
            return
        loss = float(losses[bad[0]])
        if not self.facts:
            raise NumericsError(f"the loss on text is {loss}: compute in float32")
        raise NumericsError(
            f"the loss of fact {self.facts[bad[0]].id} is {loss}; lower editor.learning_rate or compute in "
            "float32; nothing was changed"
        )


def read_targets(
    model: Model, facts: Sequence[Fact], objective: Objective, first: int, *, ends: bool = False
) -> Reading:
    """Tokenise the facts, run them up to block `first`, and find the positions that predict their targets.

    With `ends`, the tokenizer's end of text is the last token of every target. Padding follows from lengths,
    never from a token's id, so that a target may hold any token.

    Raises:
        DataError: if prompt and target share a token.
        ConfigError: for `ends` with a tokenizer that has no end of text.
    """
    prompted = [tokenize_prompt(model.tokenizer, fact, target=fact.target_new) for fact in facts]
    if ends:
        prompted = [_ended(row, model) for row in prompted]
    lengths = [len(row.target_ids) for row in prompted]
    prompts = [len(row.ids) - length for row, length in zip(prompted, lengths, strict=True)]
    owner = torch.arange(len(facts)).repeat_interleave(torch.tensor(lengths))
    last = torch.tensor(prompts) - 1
    if objective == "prompt_last":
        rows = [row.ids[:prompt] for row, prompt in zip(prompted, prompts, strict=True)]
        positions, source = (torch.arange(len(facts)), last), owner
    else:
        rows = [row.ids for row in prompted]
        steps = torch.cat([torch.arange(length) for length in lengths])
        positions, source = (owner, last[owner] + steps), torch.arange(len(owner))
    targets = torch.tensor([token for row in prompted for token in row.target_ids])
    forward = record(model, [()] * len(rows), rows, first)
    row, column, source, targets, owner, counts = (
        value.to(model.device) for value in (*positions, source, targets, owner, torch.tensor(lengths))
    )
    return Reading(facts, forward, pad(rows)[1], (row, column), source, targets, owner, counts)


def read_text(model: Model, rows: Sequence[Sequence[int]], first: int) -> Reading:
    """Run texts of two tokens or more, given as ids, up to block `first`; each token predicts the next."""
    real = pad(rows)[1]
    owner, column = real[:, 1:].nonzero(as_tuple=True)
    targets = torch.tensor([token for row in rows for token in row[1:]])
    counts = torch.tensor([len(row) - 1 for row in rows])
    forward = record(model, [()] * len(rows), rows, first)
    owner, column, targets, counts = (x.to(model.device) for x in (owner, column, targets, counts))
    source = torch.arange(len(targets), device=model.device)
    return Reading((), forward, real, (owner, column), source, targets, owner, counts)


def _ended(row: TokenizedPrompt, model: Model) -> TokenizedPrompt:
    end = model.tokenizer.eos_token_id
    if end is None:
        raise ConfigError(f"the tokenizer of {model.name} has no end of text: set editor.ends=false")
    return replace(row, ids=(*row.ids, end), target_ids=(*row.target_ids, end))


def read_in_parts(
    model: Model,
    facts: Sequence[Fact],
    objective: Objective,
    sites: Sequence[Site],
    size: int,
    *,
    ends: bool = False,
) -> list[Reading]:
    """The facts in parts of at most `size`, each run up to the lowest of the sites."""
    lowest = min(site.layer for site in sites)
    parts = [facts[i : i + size] for i in range(0, len(facts), size)]
    return [read_targets(model, part, objective, lowest, ends=ends) for part in parts]


def check_sites(model: Model, sites: Sequence[Site], key: str = "editor.matrices") -> None:
    """Raise a `ConfigError` for the first block or matrix that the model lacks, or holds in four bits."""
    model.check_layers([site.layer for site in sites])
    for site in sites:
        if site.name not in model.sites:
            raise ConfigError(
                f"{key} names {site.name}, but the blocks of {model.name} have {', '.join(model.sites)}"
            )
    model.check_changeable(sites)


def graph_bytes(model: Model, facts: Sequence[Fact], objective: Objective, sites: Sequence[Site]) -> int:
    """Bytes that autograd saves for one fact, the longest."""
    reading = read_targets(
        model, [longest_fact(model.tokenizer, facts)], objective, min(site.layer for site in sites)
    )
    with count_saved(model) as saved:
        reading.evaluate(sites)
    return saved.bytes
