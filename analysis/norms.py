"""Frobenius norms of the weights: how large, how far from the unedited, and why they grow."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from analysis.stage import Cadence, Measurement, Observation, Reference
from editors.model.deltas import Site
from editors.model.facts import Fact
from editors.model.model import Model


@dataclass(frozen=True, kw_only=True)
class Norms:
    """‖W‖_F of every attention and MLP matrix of every block, in float64.

    Keys, for each site such as `mlp_down.05`:
    `norm/frobenius/<site>` ‖W‖, `norm/frobenius_ratio/<site>` ‖W‖ / ‖W₀‖,
    `norm/distance/<site>` ‖W − W₀‖ / ‖W₀‖; and for all edited or all other matrices stacked
    `norm/frobenius_ratio/edited` and `norm/frobenius_ratio/static`, √Σ‖W‖² / √Σ‖W₀‖².
    """

    name: str = "norms"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Nothing: the reference comes with each observation."""

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Norms of all matrices."""
        reference = observation.reference
        assert reference is not None, "the norms stage needs the unedited weights"
        result: Measurement = {}
        norms: dict[Site, float] = {}
        for site, before in reference.weights.items():
            now = model.current(site).double()
            norms[site] = float(now.norm())
            base = reference.norms[site]
            result[f"norm/frobenius/{site}"] = norms[site]
            result[f"norm/frobenius_ratio/{site}"] = norms[site] / base
            result[f"norm/distance/{site}"] = float((now - before.to(now)).norm()) / base
        edited = set(observation.edited)
        for where, group in (("edited", edited), ("static", set(norms) - edited)):
            if group:
                result[f"norm/frobenius_ratio/{where}"] = _stacked_ratio(norms, reference, group)
        return result


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Why a norm grows: ‖W + Δ‖² − ‖W‖² = 2⟨W, Δ⟩ + ‖Δ‖², for the update of the last step.

    Keys, for each edited matrix: `norm/delta/<site>` ‖Δ‖, `norm/growth_cross/<site>` 2⟨W, Δ⟩ with W as it
    was before the step, `norm/growth_square/<site>` ‖Δ‖². From the factors, without forming Δ.
    """

    name: str = "growth"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Nothing."""

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """The split of the last update; empty at the start."""
        result: Measurement = {}
        for site, delta in observation.update.items():
            square = delta.square()
            # the weight already holds Δ: ⟨W, Δ⟩ = ⟨W + Δ, Δ⟩ − ‖Δ‖²
            cross = delta.inner(model.master(site)) - square
            result[f"norm/delta/{site}"] = square**0.5
            result[f"norm/growth_cross/{site}"] = 2 * cross
            result[f"norm/growth_square/{site}"] = square
        return result


def _stacked_ratio(norms: dict[Site, float], reference: Reference, group: set[Site]) -> float:
    now = sum(norms[site] ** 2 for site in group)
    before = sum(reference.norms[site] ** 2 for site in group)
    return (now / before) ** 0.5
