"""Target vectors: what a block should write at a subject so that the model says the new object.

All facts of a batch are optimised together, each with a loss, an Adam state, a norm bound and a stop of
its own, on the blocks above the edit and on the tokens from the subject's last one on; the head runs
only where the loss reads. In exact arithmetic the result is that of one fact at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.errors import ConfigError, NumericsError
from editors.locate.contexts import Groups, flat
from editors.locate.regularizers import Regularizer
from editors.model.facts import Fact
from editors.model.hooks import capture
from editors.model.model import Model
from editors.model.positions import Prompted, place
from editors.model.replay import Replay, record

ANCHOR = "{} is a"
"""Prompt whose next-token distribution at the subject should stay; only its part up to there is run."""


@dataclass(frozen=True)
class Targets:
    """Result of the optimisation, one row a fact."""

    vectors: Float[Tensor, "fact width"]
    """v* = v_init + δ."""
    initial: Float[Tensor, "fact width"]
    """v_init, the vector of the bare prompt."""
    losses: Float[Tensor, " fact"]
    """Loss at the δ that was kept."""
    steps: Int[Tensor, " fact"]
    """Optimiser steps taken; at most one less than evaluations."""


@dataclass(frozen=True, kw_only=True)
class TargetOptimizer:
    """Adam on a shift δ of the hidden state at the subject's last token, in at least float32.

    loss = mean over templates of the mean over target tokens of −log P(token)
         + kl_weight · KL(P_δ ‖ P_0) at the subject of the anchor prompt
         + decay · ‖δ‖ / ‖v_init‖²,  with ‖δ‖ ≤ max_norm_ratio · ‖v_init‖ after every step.

    Source: ROME (arXiv 2202.05262) and MEMIT (arXiv 2210.07229) with their code, `compute_v`, `compute_z`:
    the first power of ‖δ‖ over the squared norm is theirs, and so is the last evaluation without a step.
    """

    steps: int = 20
    """Evaluations of the loss; the last one is not followed by a step."""
    learning_rate: float = 0.5
    kl_weight: float = 0.0625
    decay: float = 0.5
    max_norm_ratio: float = 4.0
    """Bound of ‖δ‖ in units of ‖v_init‖."""
    loss_threshold: float = 0.05
    """A target whose loss is below it is final."""
    reference: Literal["block", "mlp"] = "block"
    """Whose output at the subject is v_init: the block's (MEMIT) or the MLP's (ROME)."""
    loss_layer: int | None = None
    """Block whose output the target's likelihood is read from, through norm and head; null is the last."""

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "max_norm_ratio"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"targets.{name}={getattr(self, name)}, but it has to be positive")

    def find(
        self, model: Model, facts: Sequence[Fact], groups: Groups, layer: int, stop: Regularizer
    ) -> Targets:
        """Optimise the targets of all facts at the output of block `layer`.

        Raises:
            NumericsError: for a loss that is NaN or infinite, with the fact's id.
        """
        rows = [_rows(model, fact, flat(groups)) for fact in facts]
        batch, initial = _start(model, rows, layer, self)
        shift = torch.zeros_like(initial, requires_grad=True)
        adam = torch.optim.Adam([shift], lr=self.learning_rate)
        kept = torch.zeros_like(initial)
        losses = torch.zeros(len(facts), dtype=initial.dtype, device=initial.device)
        taken = torch.zeros(len(facts), dtype=torch.long)
        counts = torch.zeros(len(facts), dtype=torch.long)
        bound = self.max_norm_ratio * initial.norm(dim=1, keepdim=True)
        decay = self.decay / initial.norm(dim=1) ** 2
        for step in range(self.steps):
            active = batch.facts
            nll, anchor, correct = batch.evaluate(shift)
            if step == 0:
                batch = replace(batch, anchor=anchor.detach())
            loss = nll + self.kl_weight * batch.divergence(anchor) + decay[active] * shift[active].norm(dim=1)
            _check(loss, facts, active, shift)
            counts[active] += stop.satisfied(correct).long().cpu()
            done = (loss.detach() < self.loss_threshold).cpu()
            if stop.patience:
                done |= counts[active] >= stop.patience
            if step == self.steps - 1:
                done[:] = True
            final = active[done]
            kept[final], losses[final], taken[final] = shift.detach()[final], loss.detach()[done], step
            if bool(done.all()):
                break
            adam.zero_grad()
            loss[~done].sum().backward()
            adam.step()
            with torch.no_grad():
                shift *= (bound / shift.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
            if bool(done.any()):
                batch = batch.keep(~done)
        return Targets(initial + kept, initial, losses, taken)


@dataclass(frozen=True)
class _Batch:
    """Rows of the facts still being optimised: the templates of each, then its anchor."""

    replay: Replay
    facts: Int[Tensor, " active"]
    """Index of each remaining fact in the whole batch."""
    templates: int
    positions: Int[Tensor, "active template token"]
    """Column whose logits predict each target token; padded by repeating the last."""
    targets: Int[Tensor, "active template token"]
    weights: Float[Tensor, "active token"]
    """1 / number of target tokens, 0 for padding."""
    loss_layer: int
    """Block whose output predicts the targets; the anchors are read at the top."""
    anchor: Float[Tensor, "active vocabulary"] | None = None
    """Log-distribution of the anchors before any shift."""

    def evaluate(
        self, shift: Float[Tensor, "fact width"]
    ) -> tuple[Float[Tensor, " active"], Float[Tensor, "active vocabulary"], Bool[Tensor, "active template"]]:
        """Mean NLL of each fact, log-distribution of its anchor, and where the target is the arg-max."""
        model, count = self.replay.model, len(self.facts)
        start = self.replay.hidden
        owner = self.facts.repeat_interleave(self.templates + 1)
        moved = torch.cat([start[:, :1] + shift.to(start)[owner][:, None], start[:, 1:]], dim=1)
        read = self.replay.run(moved, self.replay.first, self.loss_layer)
        top = self.replay.run(read, self.loss_layer + 1, model.depth - 1)
        shape = (count, self.templates + 1, *read.shape[1:])
        read, top = read.view(shape), top.view(shape)
        real = self.weights > 0
        chosen = _at(read[:, :-1], self.positions)[real[:, None].expand_as(self.positions)]
        wanted = self.targets[real[:, None].expand_as(self.targets)]
        both = torch.cat([chosen, top[:, -1, 0]])
        log_probability = model.logits(model.normed(both)).log_softmax(dim=-1)
        said, anchor = log_probability.split([len(wanted), count])
        score = torch.zeros(self.positions.shape, dtype=said.dtype, device=said.device)
        hit = torch.ones(self.positions.shape, dtype=torch.bool, device=said.device)
        index = real[:, None].expand_as(self.positions)
        score = score.masked_scatter(index, said.gather(1, wanted[:, None]).squeeze(1))
        hit = hit.masked_scatter(index, said.argmax(dim=1) == wanted)
        nll = -(score * self.weights[:, None]).sum(dim=2).mean(dim=1)
        return nll, anchor, hit.all(dim=2)

    def divergence(self, anchor: Float[Tensor, "active vocabulary"]) -> Float[Tensor, " active"]:
        """KL(now ‖ before) of the anchors' next-token distribution."""
        assert self.anchor is not None
        return (anchor.exp() * (anchor - self.anchor)).sum(dim=1)

    def keep(self, rest: Bool[Tensor, " active"]) -> "_Batch":
        """The batch without the facts that are done."""
        size = self.templates + 1
        index = rest.nonzero().squeeze(1).to(self.facts)
        rows = (index[:, None] * size + torch.arange(size, device=index.device)).reshape(-1)
        return _Batch(
            self.replay.select(rows),
            self.facts[index],
            self.templates,
            self.positions[index],
            self.targets[index],
            self.weights[index],
            self.loss_layer,
            None if self.anchor is None else self.anchor[index],
        )


def _rows(model: Model, fact: Fact, templates: Sequence[str]) -> list[Prompted]:
    """The fact with its target but for the last token, in every template; then its anchor."""
    rows = [place(model.tokenizer, fact, template, fact.target_new) for template in templates]
    rows = [replace(row, ids=row.ids[:-1]) for row in rows]
    anchor = place(model.tokenizer, replace(fact, prompt=ANCHOR))
    return [*rows, replace(anchor, ids=anchor.ids[: anchor.subject_last + 1])]


def _start(
    model: Model, rows: Sequence[Sequence[Prompted]], layer: int, settings: TargetOptimizer
) -> tuple[_Batch, Float[Tensor, "fact width"]]:
    """Run everything once, up to the shift; the recorded batch and v_init of each fact's bare prompt."""
    all_rows = [row for fact in rows for row in fact]
    prefixes = [row.ids[: row.subject_last] for row in all_rows]
    tails = [row.ids[row.subject_last :] for row in all_rows]
    with capture(outputs={"v": model.module(settings.reference, layer)}) as seen:
        replay = record(model, prefixes, tails, layer + 1)
    size = len(rows[0])
    precise = torch.promote_types(model.dtype, torch.float32)
    initial = seen["v"][::size, 0].to(precise)
    facts = torch.arange(len(rows), device=initial.device)
    top = model.depth - 1 if settings.loss_layer is None else settings.loss_layer
    return _Batch(replay, facts, size - 1, *_aims(rows, initial), max(top, layer)), initial


def _aims(
    rows: Sequence[Sequence[Prompted]], like: Tensor
) -> tuple[
    Int[Tensor, "fact template token"], Int[Tensor, "fact template token"], Float[Tensor, "fact token"]
]:
    """Where each target token is predicted, which it is, and its weight in the mean."""
    longest = max(len(fact[0].target_ids) for fact in rows)
    columns = torch.zeros(len(rows), len(rows[0]) - 1, longest, dtype=torch.long)
    wanted = torch.zeros_like(columns)
    weights = torch.zeros(len(rows), longest, dtype=like.dtype)
    for i, fact in enumerate(rows):
        length = len(fact[0].target_ids)
        weights[i, :length] = 1 / length
        for j, row in enumerate(fact[:-1]):
            first = len(row.ids) - row.subject_last - length
            columns[i, j, :length] = torch.arange(first, first + length)
            wanted[i, j, :length] = torch.tensor(row.target_ids)
    return columns.to(like.device), wanted.to(like.device), weights.to(like.device)


def _at(
    hidden: Float[Tensor, "fact template token width"], columns: Int[Tensor, "fact template aim"]
) -> Float[Tensor, "fact template aim width"]:
    """Hidden states at the given columns."""
    index = columns[..., None].expand(*columns.shape, hidden.shape[-1])
    return hidden.gather(2, index)


def _check(loss: Tensor, facts: Sequence[Fact], active: Tensor, shift: Tensor) -> None:
    """Raise where a loss is no number."""
    bad = (~loss.detach().isfinite()).nonzero().flatten()
    if len(bad):
        index = int(active[bad[0]])
        raise NumericsError(
            f"the loss of the target of fact {facts[index].id} is not finite (norm of its shift: "
            f"{float(shift.detach()[index].norm()):.3g}); lower targets.learning_rate or compute in float32"
        )
