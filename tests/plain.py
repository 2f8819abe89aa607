"""The plain reference path: one fact at a time, whole passes, logits everywhere, dense float64 solves.

Slow on purpose and written from the published equations, without replay, batching, caches or factored
solves. It is the oracle of the equality tests and the yardstick of `make bench`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from editors.locate.contexts import Groups, flat
from editors.locate.targets import TargetOptimizer
from editors.model.facts import Fact
from editors.model.hooks import first_tensor, replace_output
from editors.model.model import Model
from editors.model.positions import pad, place


def target(
    model: Model, fact: Fact, groups: Groups, layer: int, settings: TargetOptimizer, hits: int = 0
) -> Tensor:
    """v* of one fact; `hits` > 0 is the published MPES on the prefixed rows."""
    rows = [place(model.tokenizer, fact, template, fact.target_new) for template in flat(groups)]
    anchor = place(model.tokenizer, Fact(id="", prompt="{} is a", subject=fact.subject, target_new="x"))
    inputs = [row.ids[:-1] for row in rows] + [anchor.ids]
    at = [row.subject_last for row in rows] + [anchor.subject_last]
    module = model.module(settings.reference, layer)
    initial = _outputs(model, inputs[:1], module)[0, at[0]]
    shift = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([shift], lr=settings.learning_rate)
    before, count = None, 0
    for step in range(settings.steps):
        with _shifted(module, at, shift):
            whole = _logits(model, inputs)
        logits = [one[: len(ids)].log_softmax(dim=-1) for one, ids in zip(whole, inputs, strict=True)]
        nll, correct = [], []
        for row, said in zip(rows, logits, strict=False):
            length, wanted = len(row.target_ids), torch.tensor(row.target_ids)
            tail = said[-length:]
            nll.append(-tail.gather(1, wanted[:, None]).mean())
            correct.append(bool((tail.argmax(dim=1) == wanted).all()))
        now = logits[-1][at[-1]]
        before = now.detach() if before is None else before
        kl = (now.exp() * (now - before)).sum()
        decay = settings.decay * shift.norm() / initial.norm() ** 2
        loss = torch.stack(nll).mean() + settings.kl_weight * kl + decay
        count += all(correct[1:])
        if loss < settings.loss_threshold or (hits and count >= hits) or step == settings.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            bound = settings.max_norm_ratio * initial.norm()
            if shift.norm() > bound:
                shift *= bound / shift.norm()
    return (initial + shift).detach()


def key(model: Model, fact: Fact, groups: Groups, layer: int) -> Tensor:
    """Mean of the group means of the key at the subject."""
    keys = iter(_keys(model, fact, flat(groups), layer))
    means = [torch.stack([next(keys) for _ in group]).mean(dim=0) for group in groups]
    return torch.stack(means).mean(dim=0)


def _keys(model: Model, fact: Fact, templates: Sequence[str], layer: int) -> Tensor:
    """Inputs of the down projection at the subject, (template, in)."""
    placed = [place(model.tokenizer, fact, template) for template in templates]
    seen: list[Tensor] = []
    module = model.module("mlp_down", layer)
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _logits(model, [row.ids for row in placed])
    handle.remove()
    return torch.stack([seen[0][i, row.subject_last] for i, row in enumerate(placed)]).detach()


def rome(
    model: Model, fact: Fact, groups: Groups, layer: int, moment: Tensor, settings: TargetOptimizer
) -> Tensor:
    """Δ of ROME: (v* − v) uᵀ / (k·u), u = C⁻¹k̄."""
    vector = target(model, fact, groups, layer, settings)
    placed = place(model.tokenizer, fact)
    current = _outputs(model, [placed.ids], model.module("mlp", layer))[0, placed.subject_last].double()
    direction = torch.linalg.solve(moment.double(), key(model, fact, groups, layer).double())
    denominator = _keys(model, fact, ["{}"], layer)[0].double() @ direction
    return torch.outer(vector.double() - current, direction) / denominator


def memit(
    model: Model,
    facts: Sequence[Fact],
    groups: Groups,
    layers: Sequence[int],
    preserved: dict[int, Tensor],
    settings: TargetOptimizer,
    hits: int = 0,
) -> dict[int, Tensor]:
    """Δ of MEMIT for each layer; the weights are left as they were. `preserved` holds A of each layer."""
    vectors = torch.stack([target(model, fact, groups, layers[-1], settings, hits) for fact in facts])
    before = {layer: model.weight("mlp_down", layer).clone() for layer in layers}
    deltas = {}
    for i, layer in enumerate(layers):
        keys = torch.stack([key(model, fact, groups, layer) for fact in facts]).double().T
        outputs = []
        for fact in facts:
            placed = place(model.tokenizer, fact)
            outputs.append(_outputs(model, [placed.ids], model.block(layers[-1]))[0, placed.subject_last])
        residual = (vectors - torch.stack(outputs)).double().T / (len(layers) - i)
        solved = torch.linalg.solve(preserved[layer].double() + keys @ keys.T, keys)
        deltas[layer] = (residual @ solved.T).float()
        weight = model.weight("mlp_down", layer)
        weight += deltas[layer].to(weight)
    for layer, weight in before.items():
        model.weight("mlp_down", layer).copy_(weight)
    return deltas


def _logits(model: Model, rows: Sequence[Sequence[int]]) -> Tensor:
    """The model's own logits at all positions of right-padded rows."""
    ids, mask = (x.to(model.device) for x in pad(rows))
    return model.hf(input_ids=ids, attention_mask=mask.long()).logits


def _outputs(model: Model, rows: Sequence[Sequence[int]], module: torch.nn.Module) -> Tensor:
    """What a module writes, (row, token, width)."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(first_tensor(output)))
    _logits(model, rows)
    handle.remove()
    return seen[0].detach()


def _shifted(
    module: torch.nn.Module, positions: Sequence[int], shift: Tensor
) -> AbstractContextManager[None]:
    """Add `shift` to what the module writes at one position of each row."""

    def change(hidden: Tensor) -> Tensor:
        mark = torch.zeros(*hidden.shape[:2], 1, dtype=hidden.dtype)
        mark[torch.arange(len(positions)), torch.tensor(positions)] = 1
        return hidden + mark * shift

    return replace_output(module, change)
