"""One binary mask over the edited weights under which old objects come back.

Of the n entries of all edited matrices W the mask sets at most k = ⌊share · n⌋ to zero:

    W' = W ⊙ (1 − r),    rᵢ = 1 for the k largest saliences sᵢ, as far as they are positive
    s ← s − ∂L/∂r,       L = −mean log P(old object | prompt), a mean over the tokens of the objects

from s = 0. The gradient by r is taken at the binary r as if it were real (straight-through). A mask depends
on the order of the saliences alone, so there is no learning rate; nothing is drawn at random. The mask of the
smallest L is returned: if a few entries are enough, later steps may leave them again.

Source: Holmov et al. 2026, "One Mask to Rule Them All" (arXiv 2605.28839). Deviations from its code: that one
trains a sigmoid of falling temperature with AdamW, against more than 10 % of removed weights with a penalty
only; its loss is a margin between the two objects plus the divergence from the unedited model's prediction;
it masks the last edited matrix of one batch of MEMIT, or the matrix after each single edit of ROME; and an
edit counts as reversed once the old object is the likelier of the two (`edit/mask/likelier`).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.models.model import Model
from editors.models.tokenization import pad
from editors.updates import Delta, Site, at_least_float32

Ids = tuple[int, ...]
Mask = Mapping[Site, Bool[Tensor, "out in"]]
"""The entries of each matrix that are set to zero."""
_TEXTS = 64
"""Texts of one forward and backward pass."""


def train(
    model: Model, sites: Sequence[Site], texts: Sequence[tuple[Ids, Ids]], *, share: float, steps: int
) -> Mask:
    """The mask of the smallest L among no mask and those of so many steps.

    `texts` are prompts and old objects in tokens; `share` is that of the entries of all matrices together.
    Weights and gradients of the model stay as they are. Memory: seven numbers per entry, in float32 if the
    model is in half precision.
    """
    weights = _weights(model, sites)
    saliences = {site: torch.zeros_like(weight) for site, weight in weights.items()}
    most = int(share * sum(weight.numel() for weight in weights.values()))
    best, lowest = _largest(saliences, most), float("inf")
    for _ in range(steps + 1):
        mask = _largest(saliences, most)
        loss, gradients = _evaluated(model, weights, mask, texts)
        if loss < lowest:
            best, lowest = mask, loss
        for site, gradient in gradients.items():
            saliences[site] -= gradient
    return best


def random_mask(mask: Mask, seed: int) -> Mask:
    """A mask of as many entries of every matrix, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for site, removed in mask.items():
        order = torch.randperm(removed.numel(), generator=generator).to(removed.device)
        drawn[site] = (order < removed.sum()).view_as(removed)
    return drawn


def removed_share(mask: Mask) -> float:
    """The share of the entries of all matrices that the mask sets to zero."""
    return sum(int(removed.sum()) for removed in mask.values()) / sum(map(torch.numel, mask.values()))


def _largest(saliences: Mapping[Site, Float[Tensor, "out in"]], most: int) -> Mask:
    """The entries of the largest positive saliences of all matrices together, at most so many."""
    flat = torch.cat([salience.flatten() for salience in saliences.values()])
    values, places = flat.topk(most)
    removed = torch.zeros_like(flat, dtype=torch.bool)
    removed[places[values > 0]] = True
    parts = removed.split([salience.numel() for salience in saliences.values()])
    return {site: part.view_as(saliences[site]) for site, part in zip(saliences, parts, strict=True)}


def _weights(model: Model, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "out in"]]:
    """The matrices as the model computes with them, not their masters: a removed entry is exactly zero."""
    return {site: at_least_float32(model.weight(*site)) for site in sites}


@torch.enable_grad()
def _evaluated(
    model: Model, weights: Mapping[Site, Tensor], mask: Mask, texts: Sequence[tuple[Ids, Ids]]
) -> tuple[float, dict[Site, Float[Tensor, "out in"]]]:
    """L and ∂L/∂r at this mask."""
    removed = {site: mask[site].to(weight).requires_grad_() for site, weight in weights.items()}
    total, sums = 0.0, {site: torch.zeros_like(weight) for site, weight in weights.items()}
    count = sum(len(target) for _, target in texts)
    for first in range(0, len(texts), _TEXTS):
        change = {site: Delta(left=-weight * removed[site]) for site, weight in weights.items()}
        loss = _loss(model, change, texts[first : first + _TEXTS]) / count
        for site, gradient in zip(sums, torch.autograd.grad(loss, list(removed.values())), strict=True):
            sums[site] += gradient
        total += float(loss.detach())
    return total, sums


def _loss(model: Model, change: Mapping[Site, Delta], texts: Sequence[tuple[Ids, Ids]]) -> Float[Tensor, ""]:
    """−Σ log P of the tokens of all objects, under the changed weights."""
    ids, real = (each.to(model.device) for each in pad([(prompt + target)[:-1] for prompt, target in texts]))
    places = [
        (row, len(prompt) - 1 + place, token)
        for row, (prompt, target) in enumerate(texts)
        for place, token in enumerate(target)
    ]
    row, column, token = torch.tensor(places, device=ids.device).unbind(dim=1)
    logits = model.logits(model.hidden_after(change, ids, real)[row, column])
    return -logits.log_softmax(dim=-1).gather(1, token[:, None]).sum()
