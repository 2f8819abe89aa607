"""How far a sequence of edits is from one edit of all its facts.

With K and V the keys and values of all edits so far, and A what is preserved without them, least squares in
one batch give

    D* = B (A + Σ K Kᵀ)⁻¹,   B = Σ (V − W₀ K) Kᵀ

where V − W₀ K = R + D K, with R the residual of each batch and D the drift before it. Editors that remember
all keys (`history`) reach D* batch by batch, in any order. What regularizers take from an update, and keys
that are measured again after an edit, lead away from it.

Source: arXiv 2605.26670, whose statement this measures; the distance is ours.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from editors.moments.moment_sources import SITE
from editors.solvers import Preserved, least_squares_of
from editors.updates import Site, WeightUpdate, plain


class OneBatch:
    """D and B of every edited block, in float64: two matrices of the shape of its weight."""

    def __init__(self) -> None:
        self._drift: dict[int, Float[Tensor, "out in"]] = {}
        self._right: dict[int, Float[Tensor, "out in"]] = {}

    def distance(
        self,
        preserved: Mapping[int, Preserved],
        keys: Mapping[int, Float[Tensor, "in n"]],
        residuals: Mapping[int, Float[Tensor, "out n"]],
        update: WeightUpdate,
    ) -> float:
        """‖D − D*‖ / ‖D*‖ over all blocks, after an update that is not committed yet."""
        apart = whole = 0.0
        for layer, residual in residuals.items():
            key = keys[layer].to(residual)
            drift, right = self._of(layer, residual, key)
            best = least_squares_of(preserved[layer], key, right + (residual + drift @ key) @ key.T)
            reached = drift + update[Site(SITE, layer)].dense().to(drift)
            apart += float((reached - best).square().sum())
            whole += float(best.square().sum())
        return (apart / whole) ** 0.5 if whole else 0.0

    def commit(
        self,
        layer: int,
        *,
        weight: Float[Tensor, "out in"],
        delta: Float[Tensor, "out in"],
        residual: Float[Tensor, "out n"],
        solved: Float[Tensor, "in n"],
        remembered: Float[Tensor, "in n"],
    ) -> None:
        """Count an applied update, which `weight` holds.

        V − W₀ K′ = R + (W − Δ) K − (W − D) K′ with D after the update, K the keys of `solved` and K′ those of
        `remembered`.
        """
        old, new = solved.to(residual), remembered.to(residual)
        drift, right = self._of(layer, residual, old)
        delta, drift = delta.to(drift), drift + delta.to(drift)
        missing = residual + weight.to(drift) @ (old - new) - delta @ old + drift @ new
        self._drift[layer], self._right[layer] = plain(drift), plain(right + missing @ new.T)

    def state_dict(self) -> dict[str, Tensor]:
        """D and B by block."""
        parts = {"drift": self._drift, "right": self._right}
        return {
            f"one_batch.{name}.{layer}": matrix
            for name, matrices in parts.items()
            for layer, matrix in matrices.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from these matrices."""
        for name, matrices in (("drift", self._drift), ("right", self._right)):
            begin = f"one_batch.{name}."
            matrices.update(
                {int(key.removeprefix(begin)): state[key] for key in state if key.startswith(begin)}
            )

    def _of(
        self, layer: int, residual: Float[Tensor, "out n"], keys: Float[Tensor, "in n"]
    ) -> tuple[Float[Tensor, "out in"], Float[Tensor, "out in"]]:
        """D and B so far, on the device of the residual."""
        zero = torch.zeros(residual.shape[0], keys.shape[0]).to(residual)
        return self._drift.get(layer, zero).to(residual), self._right.get(layer, zero).to(residual)
