"""A batch of facts whose hidden states are shifted at the subject, and the predictions that follow.

Every fact is written in all context templates, without the last token of its target, and once as an anchor,
`"{subject} is a"` up to the subject, whose distribution should stay. The model runs once; afterwards only the
blocks above the shift are run, from the subject's last token on, and the head only at the positions that the
loss reads. The anchor is one more row of its fact, padded: a pass of its own would read all weights again,
which costs more than its padding as long as a batch is small.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from editors.data import Fact
from editors.models.hooks import capture, replace_output
from editors.models.model import Model
from editors.models.partial_forward import PartialForward, record
from editors.models.tokenization import TokenizedPrompt, tokenize_prompt

Place = tuple[str, int]
"""`block`, `attention` or `mlp`, and the number of its block."""
ANCHOR = "{} is a"
"""Prompt whose next-token distribution at the subject should stay; only its part up to there is run."""


@dataclass(frozen=True)
class Predictions:
    """The model's predictions for the facts that are still being optimised."""

    targets: Float[Tensor, "aim vocabulary"]
    """Log-distribution at the position of each target token of each template, in this order."""
    anchor: Float[Tensor, "active vocabulary"]
    """Log-distribution at the end of each anchor."""
    middle: Float[Tensor, "active row width"] | None = None
    """Hidden state at the subject after the middle block: templates, then the anchor."""


@dataclass(frozen=True)
class InitialState:
    """Hidden states at the subjects of the bare prompts before any shift."""

    vectors: Float[Tensor, "fact place width"]
    """v_init of every shifted place."""
    written: Float[Tensor, "fact layer width"]
    """Output of the MLP of every block with a shift."""


@dataclass(frozen=True)
class TargetPositions:
    """The target tokens of every template, and the columns that predict them."""

    columns: Int[Tensor, "active template aim"]
    """Column whose logits predict each target token; padded with zeros."""
    tokens: Int[Tensor, "active template aim"]
    weights: Float[Tensor, "active aim"]
    """1 / number of target tokens, 0 for padding."""
    lengths: Int[Tensor, " active"]
    """Number of target tokens; on the host, because the shape of `index` depends on it."""

    @cached_property
    def index(self) -> tuple[Int[Tensor, " aim"], Int[Tensor, " aim"], Int[Tensor, " aim"]]:
        """Fact, template and place of every target token, without padding."""
        _, templates, longest = self.tokens.shape
        real = (torch.arange(longest) < self.lengths[:, None])[:, None].expand(-1, templates, -1)
        fact, template, place = (part.to(self.tokens.device) for part in real.nonzero(as_tuple=True))
        return fact, template, place

    def select(self, kept: Int[Tensor, " kept"]) -> "TargetPositions":
        """The positions of some facts, given on the host."""
        there = kept.to(self.tokens.device)
        return TargetPositions(
            self.columns[there], self.tokens[there], self.weights[there], self.lengths[kept]
        )


@dataclass(frozen=True)
class ShiftedForward:
    """The prompts of a batch, run up to the shift; it shrinks as facts become final."""

    prompts: PartialForward
    """The rows of each fact: its templates, then its anchor."""
    facts: Int[Tensor, " active"]
    """Index of each remaining fact in the whole batch."""
    positions: TargetPositions
    places: Sequence[Place]
    """Sub-modules whose outputs are shifted; if empty, the input of the first recorded block is."""
    loss_layer: int
    """Block whose output predicts the targets; the anchors are read after the last one."""
    middle: int | None = None
    """Block after which the hidden states at the subjects are also returned."""
    references: Mapping[str, Float[Tensor, "active ..."]] = field(default_factory=dict)
    """Reference values of each remaining fact, for example its anchor's first distribution."""

    @property
    def count(self) -> int:
        """Number of facts that remain."""
        return len(self.facts)

    def run(self, shift: Float[Tensor, "fact place width"]) -> Predictions:
        """Add the shifts, run the blocks above, and read the predictions."""
        states = self._states(shift[self.facts])
        top = self.prompts.model.depth - 1
        fact, template, _ = index = self.positions.index
        hidden = states[self.loss_layer][fact, template, self.positions.columns[index]]
        anchors = states[top][:, -1, 0]
        both = self.prompts.model.log_probability(torch.cat([hidden, anchors]))
        targets, anchor = both.split([len(hidden), self.count])
        return Predictions(targets, anchor, None if self.middle is None else states[self.middle][:, :, 0])

    def _states(
        self, shift: Float[Tensor, "active place width"]
    ) -> dict[int, Float[Tensor, "active row token width"]]:
        """Hidden states after every block that is read."""
        replay, states = self.prompts, {}
        shift = shift.repeat_interleave(self._rows, dim=0)
        with ExitStack() as hooks:
            for i, place in enumerate(self.places):
                change = partial(_add_first, shift=shift[:, i])
                hooks.enter_context(replace_output(replay.model.module(*place), change))
            hidden = replay.hidden if self.places else _add_first(replay.hidden, shift[:, 0])
            first = replay.first
            for layer in sorted({self.loss_layer, self.middle or self.loss_layer, replay.model.depth - 1}):
                hidden, first = replay.run(hidden, first, layer), layer + 1
                states[layer] = hidden.view(self.count, self._rows, *hidden.shape[1:])
        return states

    @property
    def _rows(self) -> int:
        """Number of rows of a fact."""
        return self.prompts.hidden.shape[0] // self.count

    def spread(self, values: Shaped[Tensor, " aim"]) -> Shaped[Tensor, "active template place"]:
        """Values of the target tokens as (active, template, place), 0 for padding."""
        empty = torch.zeros(self.positions.tokens.shape, dtype=values.dtype, device=values.device)
        return empty.index_put(self.positions.index, values)

    def likelihood(self, predictions: Predictions) -> Float[Tensor, " active"]:
        """−log P of the target: mean over templates of the mean over tokens."""
        tokens = self.positions.tokens[self.positions.index]
        score = self.spread(predictions.targets.gather(1, tokens[:, None]).squeeze(1))
        return -(score * self.positions.weights[:, None]).sum(dim=2).mean(dim=1)

    def correct(self, predictions: Predictions) -> Bool[Tensor, "active template"]:
        """Whether every target token of a template is the model's first choice."""
        missed = predictions.targets.detach().argmax(dim=1) != self.positions.tokens[self.positions.index]
        return ~self.spread(missed).any(dim=2)

    def drift(self, predictions: Predictions) -> Float[Tensor, " active"]:
        """KL(now ‖ before) of the anchors' next-token distribution."""
        return divergence(predictions.anchor, self.references["anchor"])

    def with_references(self, **values: Tensor) -> "ShiftedForward":
        """The same batch with further reference values of each fact."""
        return replace(self, references=dict(self.references) | values)

    def select(self, kept: Int[Tensor, " kept"]) -> "ShiftedForward":
        """The batch with only these of its facts, given on the host, which then waits for no device."""
        there, within = kept.to(self.facts.device), torch.arange(self._rows, device=self.facts.device)
        return replace(
            self,
            prompts=self.prompts.select((there[:, None] * self._rows + within).reshape(-1)),
            facts=self.facts[there],
            positions=self.positions.select(kept),
            references={name: value[there] for name, value in self.references.items()},
        )


def divergence(now: Float[Tensor, "*any vocabulary"], before: Float[Tensor, "*any vocabulary"]) -> Tensor:
    """KL(now ‖ before) of log-distributions."""
    return (now.exp() * (now - before)).sum(dim=-1)


def prompts_in(model: Model, fact: Fact, templates: Sequence[str]) -> list[TokenizedPrompt]:
    """The fact in every template, with its target except for the last token."""
    rows = [tokenize_prompt(model.tokenizer, fact, template, fact.target_new) for template in templates]
    return [replace(row, ids=row.ids[:-1]) for row in rows]


def run_to_shift(
    model: Model,
    facts: Sequence[Fact],
    contexts: Sequence[Sequence[str]],
    places: Sequence[Place],
    inside: bool,
    loss_layer: int | None,
) -> tuple[ShiftedForward, InitialState]:
    """Run every fact once in its own contexts, equally many for each.

    A shift is added to the output of every place or, unless `inside`, of the block of the only one.
    """
    rows = [prompts_in(model, fact, own) for fact, own in zip(facts, contexts, strict=True)]
    anchors = [tokenize_prompt(model.tokenizer, replace(fact, prompt=ANCHOR)) for fact in facts]
    anchors = [replace(row, ids=row.ids[: row.subject_last + 1]) for row in anchors]
    prompts = [row for own, anchor in zip(rows, anchors, strict=True) for row in (*own, anchor)]
    layers = sorted({layer for _, layer in places})
    mlps: list[Place] = [("mlp", layer) for layer in layers]
    modules = {place: model.module(*place) for place in (*places, *mlps)}
    with capture(outputs=modules) as outputs:
        recorded = _recorded(model, prompts, layers[0] if inside else layers[0] + 1)
    top, precise = outputs[mlps[-1]].device, torch.promote_types(model.dtype, torch.float32)
    bare = {place: outputs[place][:: len(rows[0]) + 1, 0].to(top, precise) for place in modules}
    vectors, written = (torch.stack([bare[place] for place in each], dim=1) for each in (places, mlps))
    batch = ShiftedForward(
        prompts=recorded,
        facts=torch.arange(len(rows), device=written.device),
        positions=_target_positions(rows, written),
        places=places if inside else (),
        loss_layer=model.depth - 1 if loss_layer is None else loss_layer,
    )
    return batch, InitialState(vectors, written)


def _recorded(model: Model, rows: Sequence[TokenizedPrompt], first: int) -> PartialForward:
    """Prompts split before the subject's last token."""
    prefixes = [row.ids[: row.subject_last] for row in rows]
    tails = [row.ids[row.subject_last :] for row in rows]
    return record(model, prefixes, tails, first, shared=[row.context for row in rows])


def _target_positions(rows: Sequence[Sequence[TokenizedPrompt]], like: Tensor) -> TargetPositions:
    """Column, token and weight in the mean of every target token."""
    longest = max(len(fact[0].target_ids) for fact in rows)
    columns = torch.zeros(len(rows), len(rows[0]), longest, dtype=torch.long)
    tokens = torch.zeros_like(columns)
    weights = torch.zeros(len(rows), longest, dtype=like.dtype)
    for i, fact in enumerate(rows):
        length = len(fact[0].target_ids)
        weights[i, :length] = 1 / length
        for j, row in enumerate(fact):
            begin = len(row.ids) - row.subject_last - length
            columns[i, j, :length] = torch.arange(begin, begin + length)
            tokens[i, j, :length] = torch.tensor(row.target_ids)
    lengths = torch.tensor([len(fact[0].target_ids) for fact in rows])
    return TargetPositions(columns.to(like.device), tokens.to(like.device), weights.to(like.device), lengths)


def _add_first(hidden: Float[Tensor, "row token width"], shift: Float[Tensor, "row width"]) -> Tensor:
    """Add the shift to the first token of every row, which is the subject's last."""
    return torch.cat([hidden[:, :1] + shift.to(hidden)[:, None], hidden[:, 1:]], dim=1)
