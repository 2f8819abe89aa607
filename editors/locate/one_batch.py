"""How far a sequence of edits is from one edit of all its facts.

With K and V the keys and values of all edits so far, and A what is preserved without them, least squares in
one batch give

    D* = B (A + Σ K Kᵀ)⁻¹,   B = Σ (V − W₀ K) Kᵀ

Editors that remember all keys (`history`) reach D* batch by batch, in any order: V = W K + R with R the
residual of a batch. What regularizers take from an update, keys that are measured again after an edit, and
whatever else changes W lead away from it. Reported is ‖D − D*‖ / ‖D*‖ with D = W − W₀.

Source: arXiv 2605.26670, whose statement this measures; the distance is ours.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from editors.locate.located_edit import Insertion, LocatedEdit
from editors.models.model import Model
from editors.moments.moment_sources import SITE
from editors.solvers import Preserved, least_squares_of
from editors.updates import Site, WeightUpdate, plain


class OneBatch:
    """W₀ and B of every edited block: two matrices of the shape of its weight."""

    def __init__(self, unedited: Model | None = None, layers: Sequence[int] = ()) -> None:
        weights = {} if unedited is None else _weights(unedited, layers)
        self._unedited = {layer: weight.clone() for layer, weight in weights.items()}
        self._right = {layer: torch.zeros_like(weight).double() for layer, weight in weights.items()}
        self._missing: dict[int, list[Float[Tensor, "out n"]]] = {layer: [] for layer in layers}
        """V − W₀ K of every batch, of which a restored editor makes B again."""

    def diagnostics(
        self, model: Model, preserved: Mapping[int, Preserved], made: Insertion, update: WeightUpdate
    ) -> dict[str, float]:
        """‖D − D*‖ / ‖D*‖ over all blocks, with an update that is not applied yet; empty without blocks."""
        apart = whole = 0.0
        for layer, weight in _weights(model, list(self._unedited)).items():
            key, residual = made.keys[layer].double(), made.residuals[layer]
            drift = (weight - self._unedited[layer]).double()
            best = least_squares_of(
                preserved[layer], key, self._right[layer] + (residual + drift @ key) @ key.T
            )
            reached = drift + update[Site(SITE, layer)].dense().double()
            apart += float((reached - best).square().sum())
            whole += float(best.square().sum())
        if not self._unedited:
            return {}
        return {"one_batch_distance": (apart / whole) ** 0.5 if whole else 0.0}

    def commit(self, model: Model, layer: int, edit: LocatedEdit, keys: Float[Tensor, "in n"]) -> None:
        """Add an applied batch with the values it was solved for, and its keys as they are remembered."""
        site, unedited = Site(SITE, layer), self._unedited[layer].double()
        before = model.current(site) - edit.update[site].dense()
        values = before.double() @ edit.memory[layer].double() + edit.residuals[layer]
        self._add(layer, plain(values - unedited @ keys.to(unedited)).cpu(), keys)

    def state_dict(self, layer: int, batches: int) -> dict[str, Tensor]:
        """V − W₀ K of the last batches of a block; nothing if nothing is compared."""
        if layer not in self._missing:
            return {}
        return {f"one_batch.{layer}": torch.cat(self._missing[layer][-batches:], dim=1)}

    def load_state_dict(
        self, layer: int, state: Mapping[str, Tensor], keys: Sequence[Float[Tensor, "in _"]]
    ) -> None:
        """Add the batches of a state, whose keys are given."""
        if layer not in self._missing or not keys:
            return
        sizes = [batch.shape[1] for batch in keys]
        for missing, batch in zip(state[f"one_batch.{layer}"].split(sizes, dim=1), keys, strict=True):
            self._add(layer, plain(missing), batch)

    def _add(self, layer: int, missing: Float[Tensor, "out n"], keys: Float[Tensor, "in n"]) -> None:
        self._missing[layer].append(missing)
        right = self._right[layer]
        right += missing.to(right) @ keys.to(right).T


def _weights(model: Model, layers: Sequence[int]) -> dict[int, Float[Tensor, "out in"]]:
    """The matrices of some blocks."""
    return {layer: model.current(Site(SITE, layer)) for layer in layers}
