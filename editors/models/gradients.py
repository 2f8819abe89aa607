"""Where a loss on the targets of facts pulls the outputs of named matrices.

For a linear map W with keys h (inputs) and gradients g of its outputs, ∂loss/∂W = Σ g hᵀ over tokens. So
no parameter ever needs a gradient of its own, and how a family stores a matrix (transposed, fused) does
not matter. Blocks below the lowest named one are run once; the head runs only where a target is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.models.hooks import capture
from editors.models.memory import kept
from editors.models.model import Model
from editors.models.partial_forward import Replay, record
from editors.models.tokenization import longest, pad, place
from editors.updates import Site

Objective = Literal["prompt_last", "teacher_forced"]
"""Where target tokens are read: all from the distribution after the prompt, or each after those before it."""


@dataclass(frozen=True)
class Pull:
    """What one matrix reads at every token, and the gradient of the loss by what it writes there."""

    keys: Float[Tensor, "token in"]
    gradients: Float[Tensor, "token out"]

    def weight_gradient(self) -> Float[Tensor, "out in"]:
        """∂loss/∂W = Σ g hᵀ."""
        return self.gradients.T @ self.keys


@dataclass(frozen=True)
class Evaluation:
    """Losses of one pass with its graph, and what the named matrices read and wrote in it."""

    losses: Float[Tensor, " fact"]
    """Sum over each fact's target tokens of −log P(token)."""
    inputs: Mapping[Site, Tensor]
    outputs: Mapping[Site, Tensor]
    reading: "Reading"

    def pulls(self, loss: Float[Tensor, ""]) -> dict[Site, Pull]:
        """Keys and gradients of every matrix at every token, at least in float32."""
        sites = list(self.outputs)
        gradients = torch.autograd.grad(loss, [self.outputs[site] for site in sites])
        found = zip(sites, gradients, strict=True)
        return {site: self._pull(site, gradient) for site, gradient in found}

    def _pull(self, site: Site, gradient: Float[Tensor, "row token wide"]) -> Pull:
        model, real = self.reading.replay.model, self.reading.real
        rows = model.family.fused.get(site.name)
        if rows is not None:
            gradient = gradient[..., rows(model.hf.config)]
        precise = torch.promote_types(model.dtype, torch.float32)
        return Pull(self.inputs[site].detach()[real].to(precise), gradient[real].to(precise))


@dataclass(frozen=True)
class Reading:
    """A batch of facts that stands before a block, and where its target tokens are read."""

    facts: Sequence[Fact]
    replay: Replay
    real: Bool[Tensor, "row token"]
    """False for padding."""
    positions: tuple[Int[Tensor, " position"], Int[Tensor, " position"]]
    """Row and column of every distribution that is read."""
    source: Int[Tensor, " target"]
    """Which position predicts each target token."""
    wanted: Int[Tensor, " target"]
    """The target tokens."""
    owner: Int[Tensor, " target"]
    """The fact that each belongs to."""

    @property
    def lengths(self) -> Int[Tensor, " fact"]:
        """Number of target tokens of each fact."""
        return self.owner.bincount(minlength=len(self.facts))

    @torch.enable_grad()
    def evaluate(self, sites: Sequence[Site]) -> Evaluation:
        """Run the blocks with the weights as they are and read the targets.

        Raises:
            NumericsError: for a loss that is NaN or infinite, with the fact's id.
        """
        model, modules = self.replay.model, {}
        for site in sites:
            modules[site] = model.module(site.name, site.layer)
        start = self.replay.hidden.detach().requires_grad_()
        with capture(inputs=modules) as inputs, capture(outputs=modules) as outputs:
            top = self.replay.run(start, self.replay.first, model.depth - 1)
        said = model.log_probability(top[self.positions])
        nll = -said[self.source, self.wanted]
        losses = torch.zeros(len(self.facts), dtype=nll.dtype, device=nll.device)
        losses = losses.index_add(0, self.owner, nll)
        self._check(losses.detach())
        return Evaluation(losses, inputs, outputs, self)

    def _check(self, losses: Float[Tensor, " fact"]) -> None:
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise NumericsError(
                f"the loss of fact {self.facts[bad[0]].id} is {float(losses[bad[0]])}; lower "
                "editor.learning_rate or compute in float32; nothing was changed"
            )


def read_targets(model: Model, facts: Sequence[Fact], objective: Objective, first: int) -> Reading:
    """Tokenise the facts, run them up to block `first`, and say where their targets are read.

    Padding is told by length, never by a token's id, so that a target may hold any token.

    Raises:
        DataError: where prompt and target share a token.
    """
    placed = [place(model.tokenizer, fact, target=fact.target_new) for fact in facts]
    lengths = [len(row.target_ids) for row in placed]
    prompts = [len(row.ids) - length for row, length in zip(placed, lengths, strict=True)]
    owner = torch.arange(len(facts)).repeat_interleave(torch.tensor(lengths))
    last = torch.tensor(prompts) - 1
    if objective == "prompt_last":
        rows = [row.ids[:prompt] for row, prompt in zip(placed, prompts, strict=True)]
        positions, source = (torch.arange(len(facts)), last), owner
    else:
        rows = [row.ids for row in placed]
        steps = torch.cat([torch.arange(length) for length in lengths])
        positions, source = (owner, last[owner] + steps), torch.arange(len(owner))
    wanted = torch.tensor([token for row in placed for token in row.target_ids])
    replay = record(model, [()] * len(rows), rows, first)
    row, column, source, wanted, owner, real = (
        value.to(model.device) for value in (*positions, source, wanted, owner, pad(rows)[1])
    )
    return Reading(facts, replay, real, (row, column), source, wanted, owner)


def read_in_parts(
    model: Model, facts: Sequence[Fact], objective: Objective, sites: Sequence[Site], size: int
) -> list[Reading]:
    """At most `size` facts at a time, each part run up to the lowest of the sites."""
    lowest = min(site.layer for site in sites)
    parts = [facts[i : i + size] for i in range(0, len(facts), size)]
    return [read_targets(model, part, objective, lowest) for part in parts]


def check_sites(model: Model, sites: Sequence[Site], key: str = "editor.matrices") -> None:
    """Raise a `ConfigError` that names the first block or matrix that the model does not have."""
    model.check_layers([site.layer for site in sites])
    for site in sites:
        if site.name not in model.sites:
            raise ConfigError(
                f"{key} names {site.name}, but the blocks of {model.name} have {', '.join(model.sites)}"
            )


def graph_bytes(model: Model, facts: Sequence[Fact], objective: Objective, sites: Sequence[Site]) -> int:
    """What one fact, the longest, keeps for its gradient."""
    reading = read_targets(
        model, [longest(model.tokenizer, facts)], objective, min(site.layer for site in sites)
    )
    with kept(model) as graph:
        reading.evaluate(sites)
    return graph.bytes
