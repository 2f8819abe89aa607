"""The plain reference path: one fact at a time, whole passes, logits everywhere, dense float64 solves.

Slow on purpose and written from the published equations, without replay, batching, caches or factored
solves. It is the oracle of the equality tests and the yardstick of `make bench`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from editors.data import Fact
from editors.locate.contexts import Groups, flat
from editors.locate.targets import TargetOptimizer
from editors.methods.lti import DistilledTargets
from editors.methods.pmet import JointTargets
from editors.models.hooks import capture, first_tensor, replace_output
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize_prompt


def target(
    model: Model, fact: Fact, groups: Groups, layer: int, settings: TargetOptimizer, hits: int = 0
) -> Tensor:
    """v* of one fact; `hits` > 0 is the published MPES on the prefixed rows, < 0 on all rows.

    It is the output of the MLP if a norm follows that.
    """
    module = _aimed(model, layer, settings)
    prompts = Prompts(model, fact, groups, settings.loss_layer)
    return prompts.initial(module) + _shifts(prompts, [module], settings, hits)[0]


def _aimed(model: Model, layer: int, settings: TargetOptimizer) -> Module:
    """The module whose output is shifted."""
    return model.module("mlp" if model.has_normed_mlp else settings.reference, layer)


def _shifts(
    prompts: "Prompts", modules: Sequence[Module], settings: TargetOptimizer, hits: int = 0
) -> list[Tensor]:
    """δ of the output of every module, found together."""
    seen: list[Tensor] = []
    count = 0

    def evaluate(shifts: Sequence[Tensor]) -> tuple[Tensor, bool]:
        nonlocal count
        said = prompts.run(dict(zip(modules, shifts, strict=True)))
        seen.append(said.anchor.detach())
        count += all(said.correct if hits < 0 else said.correct[1:])
        return said.nll + settings.kl_weight * _kl(said.anchor, seen[0]), 0 < abs(hits) <= count

    initial = [prompts.initial(module) for module in modules]
    return [end - start for end, start in zip(_adam(initial, settings, evaluate), initial, strict=True)]


def joint_target(model: Model, fact: Fact, groups: Groups, layer: int, settings: JointTargets) -> Tensor:
    """PMET's target of the MLP, found together with one of the attention."""
    prompts = Prompts(model, fact, groups, settings.loss_layer)
    modules = [model.module(site, layer) for site in ("attn_o", "mlp_down")]
    seen: list[Tensor] = []
    factor = settings.nll_weight

    def evaluate(shifts: Sequence[Tensor]) -> tuple[Tensor, bool]:
        nonlocal factor
        said = prompts.run(dict(zip(modules, shifts, strict=True)))
        seen.append(said.anchor.detach())
        drift = settings.kl_weight * _kl(said.anchor, seen[0])
        loss = factor * said.nll + drift
        factor = settings.nll_weight * (0.1 if all(said.correct) else 1.0)
        return loss, all(said.correct) and float(drift.detach()) <= settings.drift_threshold

    return _adam([prompts.initial(module) for module in modules], settings, evaluate)[1]


def distilled_target(
    model: Model, fact: Fact, groups: Groups, layer: int, settings: DistilledTargets
) -> Tensor:
    """LTI's target; its teacher is the model that reads the fact first, each row at its own positions."""
    prompts = Prompts(model, fact, groups, settings.loss_layer)
    told = f"Imagine that {fact.statement} {fact.target_new}\n"
    longer = tuple(tuple(told + template for template in group) for group in groups)
    with torch.no_grad():
        teacher = Prompts(model, fact, longer, settings.loss_layer).run({}, settings.middle_layer)
    module = _aimed(model, layer, settings)

    def evaluate(shifts: Sequence[Tensor]) -> tuple[Tensor, bool]:
        said = prompts.run({module: shifts[0]}, settings.middle_layer)
        pairs = [*zip(said.target, teacher.target, strict=True), (said.anchor[None], teacher.anchor[None])]
        last = torch.cat([_kl(now, taught) for now, taught in pairs]).mean()
        middle = _kl(said.middle, teacher.middle).mean()
        weighted = settings.last_kl_weight * last + settings.middle_kl_weight * middle
        drift = settings.kl_weight * _kl(said.anchor, teacher.anchor)
        return settings.nll_weight * said.nll + weighted + drift, False

    return _adam([prompts.initial(module)], settings, evaluate)[0]


@dataclass(frozen=True)
class Said:
    """Log-distributions of one fact's rows: the templates, then the anchor."""

    target: list[Tensor]
    """Where each target token is predicted, (token, vocabulary) for every template."""
    wanted: list[Tensor]
    anchor: Tensor
    middle: Tensor | None
    """What norm and head say of the subject after the middle block, (row, vocabulary), if asked."""

    @property
    def nll(self) -> Tensor:
        """Mean over templates of the mean over tokens."""
        pairs = zip(self.target, self.wanted, strict=True)
        return torch.stack([-said.gather(1, ids[:, None]).mean() for said, ids in pairs]).mean()

    @property
    def correct(self) -> list[bool]:
        """Templates whose target tokens are all the first choice."""
        pairs = zip(self.target, self.wanted, strict=True)
        return [bool((said.argmax(dim=1) == ids).all()) for said, ids in pairs]


class Prompts:
    """A fact in every template, with its target but for the last token, and the anchor."""

    def __init__(self, model: Model, fact: Fact, groups: Groups, loss_layer: int | None) -> None:
        self.model = model
        self.top = model.depth - 1 if loss_layer is None else loss_layer
        rows = [
            tokenize_prompt(model.tokenizer, fact, template, fact.target_new) for template in flat(groups)
        ]
        anchor = tokenize_prompt(
            model.tokenizer, Fact(id="", prompt="{} is a", subject=fact.subject, target_new="x")
        )
        self.ids = [row.ids[:-1] for row in rows] + [anchor.ids]
        self.at = [row.subject_last for row in rows] + [anchor.subject_last]
        self.wanted = [torch.tensor(row.target_ids) for row in rows]

    def initial(self, module: Module) -> Tensor:
        """What the module writes at the subject of the bare prompt."""
        return _outputs(self.model, self.ids[:1], module)[0, self.at[0]]

    def run(self, shifts: Mapping[Module, Tensor], middle: int | None = None) -> Said:
        """Add the shifts at the subjects of all rows and read; the head runs once unless more is asked."""
        blocks = {i: self.model.block(i) for i in (middle, self.top) if i is not None}
        with ExitStack() as hooks:
            for module, shift in shifts.items():
                hooks.enter_context(_shifted(module, self.at, shift))
            hidden = hooks.enter_context(capture(outputs=blocks))
            logits = _logits(self.model, self.ids).log_softmax(dim=-1)
        every, at = torch.arange(len(self.at)), torch.tensor(self.at)
        between = None if middle is None else self._through_head(hidden[middle][every, at])
        read = logits if self.top == self.model.depth - 1 else self._through_head(hidden[self.top])
        lengths = [len(ids) for ids in self.ids]
        target = [read[i, lengths[i] - len(ids) : lengths[i]] for i, ids in enumerate(self.wanted)]
        return Said(target, self.wanted, logits[-1, self.at[-1]], between)

    def _through_head(self, hidden: Tensor) -> Tensor:
        return self.model.logits(self.model.normed(hidden)).log_softmax(dim=-1)


def _adam(
    initial: Sequence[Tensor],
    settings: TargetOptimizer,
    evaluate: Callable[[Sequence[Tensor]], tuple[Tensor, bool]],
) -> list[Tensor]:
    """v_init + δ of every part: one Adam over all, each with its own decay and norm bound."""
    shifts = [torch.zeros_like(vector, requires_grad=True) for vector in initial]
    adam = torch.optim.Adam(shifts, lr=settings.learning_rate)
    for step in range(settings.steps):
        loss, final = evaluate(shifts)
        for shift, vector in zip(shifts, initial, strict=True):
            loss = loss + settings.decay * shift.norm() / vector.norm() ** 2
        if final or loss < settings.loss_threshold or step == settings.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for shift, vector in zip(shifts, initial, strict=True):
                bound = settings.max_norm_ratio * vector.norm()
                if shift.norm() > bound:
                    shift *= bound / shift.norm()
    return [(vector + shift).detach() for vector, shift in zip(initial, shifts, strict=True)]


def _kl(now: Tensor, before: Tensor) -> Tensor:
    return (now.exp() * (now - before)).sum(dim=-1)


def key(model: Model, fact: Fact, groups: Groups, layer: int) -> Tensor:
    """Mean of the group means of the key at the subject."""
    keys = iter(_keys(model, fact, flat(groups), layer))
    means = [torch.stack([next(keys) for _ in group]).mean(dim=0) for group in groups]
    return torch.stack(means).mean(dim=0)


def _keys(model: Model, fact: Fact, templates: Sequence[str], layer: int) -> Tensor:
    """Inputs of the down projection at the subject, (template, in)."""
    placed = [tokenize_prompt(model.tokenizer, fact, template) for template in templates]
    seen: list[Tensor] = []
    module = model.module("mlp_down", layer)
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _logits(model, [row.ids for row in placed])
    handle.remove()
    return torch.stack([seen[0][i, row.subject_last] for i, row in enumerate(placed)]).detach()


def rome(
    model: Model,
    fact: Fact,
    groups: Groups,
    layer: int,
    moment: Tensor,
    settings: TargetOptimizer,
    averaged: str = "direction",
) -> Tensor:
    """Δ of ROME: (v* − v) uᵀ / (k·u), u = C⁻¹k; `averaged` says where the mean over the templates stands.

    ROME: direction; r-ROME: direction, value and denominator; p-ROME: nowhere.
    """
    bare: Groups = (("{}",),)
    keys = {
        part: key(model, fact, groups if part in averaged else bare, layer).double()
        for part in ("direction", "denominator")
    }
    value = written(model, fact, groups if "value" in averaged else bare, "mlp", layer).double()
    direction = torch.linalg.solve(moment.double(), keys["direction"])
    wanted = target(model, fact, groups, layer, settings).double() - value
    return torch.outer(wanted, direction) / (keys["denominator"] @ direction)


def written(model: Model, fact: Fact, groups: Groups, module: str, layer: int) -> Tensor:
    """Mean of the group means of what a module writes at the subject."""
    means = []
    for group in groups:
        placed = [tokenize_prompt(model.tokenizer, fact, template) for template in group]
        outputs = [_outputs(model, [row.ids], model.module(module, layer))[0] for row in placed]
        at = [output[row.subject_last] for output, row in zip(outputs, placed, strict=True)]
        means.append(torch.stack(at).mean(dim=0))
    return torch.stack(means).mean(dim=0)


def memit(
    model: Model,
    facts: Sequence[Fact],
    groups: Groups,
    layers: Sequence[int],
    preserved: dict[int, Tensor],
    settings: TargetOptimizer,
    hits: int = 0,
) -> dict[int, Tensor]:
    """Δ of MEMIT for each layer; the weights are left as they were. `preserved` holds A of each layer.

    If a norm follows the MLP, every layer has a target of its own: the output of its MLP with all shifts in
    place.
    """
    if model.has_normed_mlp:
        goals: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        mlps = [model.module("mlp", layer) for layer in layers]
        for fact in facts:
            prompts = Prompts(model, fact, groups, settings.loss_layer)
            with ExitStack() as hooks:
                for mlp, shift in zip(mlps, _shifts(prompts, mlps, settings, hits), strict=True):
                    hooks.enter_context(_shifted(mlp, prompts.at[:1], shift))
                for layer, mlp in zip(layers, mlps, strict=True):
                    goals[layer].append(_outputs(model, prompts.ids[:1], mlp)[0, prompts.at[0]])
        return _each_in_turn(model, facts, groups, preserved, goals, "mlp")
    vectors = torch.stack([target(model, fact, groups, layers[-1], settings, hits) for fact in facts])
    return insert(model, facts, groups, layers, preserved, vectors)


def insert(
    model: Model,
    facts: Sequence[Fact],
    groups: Groups,
    layers: Sequence[int],
    preserved: dict[int, Tensor],
    vectors: Tensor,
    measured_at: str = "block",
    power: float = 1.0,
    projected: bool = False,
    rounded: torch.dtype = torch.float32,
) -> dict[int, Tensor]:
    """Δ of each layer for given targets; a layer takes 1 / (layers left) ** power of the residual.

    Rᵀ is multiplied by (A + K Kᵀ)⁻¹ K or, if `projected`, by AlphaEdit's (P K Kᵀ + 10 I)⁻¹ P K, with P in
    the place of A.
    """
    before = {layer: model.weight("mlp_down", layer).clone() for layer in layers}
    deltas = {}
    for i, layer in enumerate(layers):
        keys = torch.stack([key(model, fact, groups, layer) for fact in facts]).double().T
        current = [written(model, fact, (("{}",),), measured_at, layers[-1]) for fact in facts]
        residual = (vectors - torch.stack(current)).double().T / (len(layers) - i) ** power
        a = preserved[layer].double()
        if projected:
            solved = torch.linalg.solve(a @ keys @ keys.T + 10 * torch.eye(len(a)), a @ keys)
        else:
            solved = torch.linalg.solve(a + keys @ keys.T, keys)
        deltas[layer] = (residual @ solved.T).to(rounded)
        weight = model.weight("mlp_down", layer)
        weight += deltas[layer].to(weight)
    for layer, weight in before.items():
        model.weight("mlp_down", layer).copy_(weight)
    return deltas


def replayed_memit(
    model: Model,
    facts: Sequence[Fact],
    groups: Groups,
    layers: Sequence[int],
    preserved: dict[int, Tensor],
    settings: TargetOptimizer,
) -> dict[int, Tensor]:
    """Δ of MEMIT with forward replay: each layer meets what follows from the targets of the first."""
    goals: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for fact in facts:
        prompts = Prompts(model, fact, (("{}",),), None)
        block, row, at = model.block(layers[0]), prompts.ids[:1], prompts.at[:1]
        vector = target(model, fact, groups, layers[0], settings)
        goals[layers[0]].append(vector)
        with _shifted(block, at, vector - prompts.initial(block)):
            for layer in layers[1:]:
                goals[layer].append(_outputs(model, row, model.block(layer))[0, at[0]])
    return _each_in_turn(model, facts, groups, preserved, goals, "block")


def _each_in_turn(
    model: Model,
    facts: Sequence[Fact],
    groups: Groups,
    preserved: dict[int, Tensor],
    goals: Mapping[int, Sequence[Tensor]],
    measured_at: str,
) -> dict[int, Tensor]:
    """Δ of each layer for a target of its own, with those of the layers below in place."""
    before = {layer: model.weight("mlp_down", layer).clone() for layer in goals}
    deltas: dict[int, Tensor] = {}
    for layer, vectors in goals.items():
        deltas |= insert(model, facts, groups, [layer], preserved, torch.stack(list(vectors)), measured_at)
        model.weight("mlp_down", layer).add_(deltas[layer].to(before[layer]))
    for layer, weight in before.items():
        model.weight("mlp_down", layer).copy_(weight)
    return deltas


def _logits(model: Model, rows: Sequence[Sequence[int]]) -> Tensor:
    """The model's own logits at all positions of right-padded rows."""
    ids, mask = (x.to(model.device) for x in pad(rows))
    return model.hf(input_ids=ids, attention_mask=mask.long()).logits


def _outputs(model: Model, rows: Sequence[Sequence[int]], module: Module) -> Tensor:
    """What a module writes, (row, token, width)."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(first_tensor(output)))
    _logits(model, rows)
    handle.remove()
    return seen[0].detach()


def _shifted(module: Module, positions: Sequence[int], shift: Tensor) -> AbstractContextManager[None]:
    """Add `shift` to what the module writes at one position of each row."""

    def change(hidden: Tensor) -> Tensor:
        mark = torch.zeros(*hidden.shape[:2], 1, dtype=hidden.dtype)
        mark[torch.arange(len(positions)), torch.tensor(positions)] = 1
        return hidden + mark * shift

    return replace_output(module, change)
