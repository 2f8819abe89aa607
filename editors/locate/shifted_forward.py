"""A batch of facts whose hidden states are shifted at the subject, and what the model then says.

Every fact is written in all context templates up to its target's last token but one, and once as an anchor,
`"{subject} is a"` up to the subject, whose distribution should stay. The model runs once; afterwards only the
blocks above the shift are run, on the tokens from the subject's last one on, and the head only where the loss
reads it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.data import Fact
from editors.models.hooks import capture, replace_output
from editors.models.model import Model
from editors.models.partial_forward import Replay, record
from editors.models.tokenization import Prompted, place

ANCHOR = "{} is a"
"""Prompt whose next-token distribution at the subject should stay; only its part up to there is run."""


@dataclass(frozen=True)
class Said:
    """What the model says of the facts that are still being optimised."""

    chosen: Float[Tensor, "aim vocabulary"]
    """Log-distribution where each target token of each template is predicted, in this order."""
    anchor: Float[Tensor, "active vocabulary"]
    """Log-distribution after the anchors."""
    middle: Float[Tensor, "active row width"] | None = None
    """Hidden state at the subject after the middle block: templates, then the anchor."""


@dataclass(frozen=True)
class Initial:
    """What stands at the subjects of the bare prompts before any shift."""

    vectors: Float[Tensor, "fact part width"]
    """v_init of every shifted part."""
    written: Float[Tensor, "fact width"]
    """Output of the MLP."""


@dataclass(frozen=True)
class Aims:
    """Which tokens the templates should predict, and where."""

    columns: Int[Tensor, "active template aim"]
    """Column whose logits predict each target token; padded with zeros."""
    tokens: Int[Tensor, "active template aim"]
    weights: Float[Tensor, "active aim"]
    """1 / number of target tokens, 0 for padding."""

    @property
    def real(self) -> Bool[Tensor, "active template aim"]:
        """Where there is a target token."""
        return (self.weights > 0)[:, None].expand_as(self.tokens)

    def keep(self, index: Int[Tensor, " kept"]) -> "Aims":
        """Those of some facts."""
        return Aims(self.columns[index], self.tokens[index], self.weights[index])


@dataclass(frozen=True)
class Shifted:
    """The prompts of a batch; compacts as facts become final."""

    templates: Replay
    anchors: Replay
    facts: Int[Tensor, " active"]
    """Index of each remaining fact in the whole batch."""
    aims: Aims
    layer: int
    """Block at whose output, or inside of which, the shift is added."""
    parts: Sequence[str]
    """Sub-modules of the block that are shifted; none: its output."""
    loss_layer: int
    """Block whose output predicts the targets; the anchors are read at the top."""
    middle: int | None = None
    """Block after which the subjects' hidden states are read too."""
    kept: Mapping[str, Float[Tensor, "active ..."]] = field(default_factory=dict)
    """What is known of each remaining fact, for example its anchor's first distribution."""

    @property
    def count(self) -> int:
        """Facts that remain."""
        return len(self.facts)

    def run(self, shift: Float[Tensor, "fact part width"]) -> Said:
        """Add the shifts, run on, and read."""
        model, shift = self.templates.model, shift[self.facts]
        rows = self.templates.hidden.shape[0] // self.count
        spread = shift.repeat_interleave(rows, dim=0)
        read, subjects = self._above(self.templates, spread, self.loss_layer)
        top, anchored = self._above(self.anchors, shift, model.depth - 1)
        chosen = read.view(self.count, rows, *read.shape[1:])[self._index()]
        both = model.log_probability(torch.cat([chosen, top[:, 0]]))
        said, anchor = both.split([len(chosen), self.count])
        middle = None
        if subjects is not None and anchored is not None:
            middle = torch.cat([subjects.view(self.count, rows, -1), anchored[:, None]], dim=1)
        return Said(said, anchor, middle)

    def _above(
        self, replay: Replay, shift: Float[Tensor, "row part width"], last: int
    ) -> tuple[Float[Tensor, "row token width"], Float[Tensor, "row width"] | None]:
        """Hidden states after block `last`, and those of the subjects after the middle block."""
        with ExitStack() as hooks:
            for i, part in enumerate(self.parts):
                change = partial(_add_first, shift=shift[:, i])
                hooks.enter_context(replace_output(replay.model.module(part, self.layer), change))
            if self.parts:
                hidden = replay.run(replay.hidden, self.layer, self.layer)
            else:
                hidden = _add_first(replay.hidden, shift[:, 0])
        if self.middle is None:
            return replay.run(hidden, self.layer + 1, last), None
        between = max(self.layer, min(self.middle, last))
        hidden = replay.run(hidden, self.layer + 1, between)
        return replay.run(hidden, between + 1, last), hidden[:, 0]

    def _index(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fact, template and column of every aim."""
        fact, template, aim = self.aims.real.nonzero(as_tuple=True)
        return fact, template, self.aims.columns[fact, template, aim]

    def spread(self, values: Tensor) -> Tensor:
        """One value for each aim as (active, template, aim), 0 where there is none."""
        empty = torch.zeros(self.aims.tokens.shape, dtype=values.dtype, device=values.device)
        return empty.masked_scatter(self.aims.real, values)

    def likelihood(self, said: Said) -> Float[Tensor, " active"]:
        """−log P of the target: mean over templates of the mean over tokens."""
        wanted = self.aims.tokens[self.aims.real]
        score = self.spread(said.chosen.gather(1, wanted[:, None]).squeeze(1))
        return -(score * self.aims.weights[:, None]).sum(dim=2).mean(dim=1)

    def correct(self, said: Said) -> Bool[Tensor, "active template"]:
        """Where every target token of a template is the model's first choice."""
        hit = said.chosen.detach().argmax(dim=1) == self.aims.tokens[self.aims.real]
        return (self.spread(hit) | ~self.aims.real).all(dim=2)

    def drift(self, said: Said) -> Float[Tensor, " active"]:
        """KL(now ‖ before) of the anchors' next-token distribution."""
        return divergence(said.anchor, self.kept["anchor"])

    def remember(self, **values: Tensor) -> "Shifted":
        """The batch that knows more of each fact."""
        return replace(self, kept=dict(self.kept) | values)

    def keep(self, rest: Bool[Tensor, " active"]) -> "Shifted":
        """The batch without the facts that are done."""
        index = rest.nonzero().squeeze(1).to(self.facts)
        rows = self.templates.hidden.shape[0] // self.count
        within = torch.arange(rows, device=index.device)
        return replace(
            self,
            templates=self.templates.select((index[:, None] * rows + within).reshape(-1)),
            anchors=self.anchors.select(index),
            facts=self.facts[index],
            aims=self.aims.keep(index),
            kept={name: value[index] for name, value in self.kept.items()},
        )


def divergence(now: Float[Tensor, "*any vocabulary"], before: Float[Tensor, "*any vocabulary"]) -> Tensor:
    """KL(now ‖ before) of log-distributions."""
    return (now.exp() * (now - before)).sum(dim=-1)


def written_in(model: Model, fact: Fact, templates: Sequence[str]) -> list[Prompted]:
    """The fact in every template, with its target but for the last token."""
    rows = [place(model.tokenizer, fact, template, fact.target_new) for template in templates]
    return [replace(row, ids=row.ids[:-1]) for row in rows]


def shifted(
    model: Model,
    facts: Sequence[Fact],
    contexts: Sequence[Sequence[str]],
    layer: int,
    parts: Sequence[str],
    inside: bool,
    loss_layer: int | None,
) -> tuple[Shifted, Initial]:
    """Run everything once, every fact in its own contexts, as many for each.

    The shift is added to the output of block `layer` or, if `inside`, to that of its parts.
    """
    rows = [written_in(model, fact, own) for fact, own in zip(facts, contexts, strict=True)]
    anchors = [place(model.tokenizer, replace(fact, prompt=ANCHOR)) for fact in facts]
    anchors = [replace(row, ids=row.ids[: row.subject_last + 1]) for row in anchors]
    first = layer if inside else layer + 1
    modules = {part: model.module(part, layer) for part in (*parts, "mlp")}
    top = model.depth - 1 if loss_layer is None else loss_layer
    with capture(outputs=modules) as seen:
        written = _recorded(model, [row for fact in rows for row in fact], first, top)
    precise = torch.promote_types(model.dtype, torch.float32)
    found = {part: seen[part][:: len(rows[0]), 0].to(precise) for part in modules}
    initial = Initial(torch.stack([found[part] for part in parts], dim=1), found["mlp"])
    batch = Shifted(
        templates=written,
        anchors=_recorded(model, anchors, first, model.depth - 1),
        facts=torch.arange(len(rows), device=initial.written.device),
        aims=_aims(rows, initial.written),
        layer=layer,
        parts=parts if inside else (),
        loss_layer=top,
    )
    return batch, initial


def _recorded(model: Model, rows: Sequence[Prompted], first: int, last: int) -> Replay:
    """Prompts split before the subject's last token."""
    prefixes = [row.ids[: row.subject_last] for row in rows]
    tails = [row.ids[row.subject_last :] for row in rows]
    return record(model, prefixes, tails, first, last, shared=[row.context for row in rows])


def _aims(rows: Sequence[Sequence[Prompted]], like: Tensor) -> Aims:
    """Where each target token is predicted, which it is, and its weight in the mean."""
    longest = max(len(fact[0].target_ids) for fact in rows)
    columns = torch.zeros(len(rows), len(rows[0]), longest, dtype=torch.long)
    wanted = torch.zeros_like(columns)
    weights = torch.zeros(len(rows), longest, dtype=like.dtype)
    for i, fact in enumerate(rows):
        length = len(fact[0].target_ids)
        weights[i, :length] = 1 / length
        for j, row in enumerate(fact):
            begin = len(row.ids) - row.subject_last - length
            columns[i, j, :length] = torch.arange(begin, begin + length)
            wanted[i, j, :length] = torch.tensor(row.target_ids)
    return Aims(columns.to(like.device), wanted.to(like.device), weights.to(like.device))


def _add_first(hidden: Float[Tensor, "row token width"], shift: Float[Tensor, "row width"]) -> Tensor:
    """Add to the first token of every row, the subject's last."""
    return torch.cat([hidden[:, :1] + shift.to(hidden)[:, None], hidden[:, 1:]], dim=1)
