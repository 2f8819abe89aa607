"""Frobenius norms of the weights: their size, their distance from the unedited weights, and why they grow.

Sequential editing makes the edited matrices grow (arXiv 2502.01636). The growth of one step has two causes:
an update that points along the weights lengthens them (the cross term), and even an orthogonal one adds its
own length (the square term):

    ‖W + Δ‖² = ‖W‖² + 2⟨W, Δ⟩ + ‖Δ‖²

With updates of equal length and a cross term of zero, the norm grows like √n over n edits; a positive cross
term makes it grow faster, a negative one slower. Over n steps

    ‖W_n‖² = ‖W₀‖² + (1 + ρ) Σ‖Δ‖²,   ρ = Σ 2⟨W, Δ⟩ / Σ‖Δ‖²

ρ = 0 is growth by Pythagoras alone; at ρ < −1 the norm shrinks.

The same equation makes every step cheap: an update's factors give the new norm of the matrices that it
touches. Rounding errors would add up over thousands of steps, so all matrices are measured from their entries
at the moments of `whole`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analysis.linalg import frobenius, ratio
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.reference import Reference
from editors.data import Fact
from editors.models.model import Model
from editors.updates import Delta, Site, WeightUpdate, at_least_float32, factors, from_factors


@dataclass(kw_only=True)
class Norms(Stage):
    """‖W‖_F of the attention and MLP matrices (`frobenius`); of the edited ones after every step.

    If updates are not reported, as in training, every measurement is of the weights themselves.

    Keys, for each site such as `mlp_down.05`: `norm/frobenius/<site>` ‖W‖, `norm/frobenius_ratio/<site>`
    ‖W‖ / ‖W₀‖; at whole measurements `norm/distance/<site>` ‖W − W₀‖ / ‖W₀‖; and for all edited, other,
    attention or MLP matrices stacked `norm/frobenius_ratio/edited`, `static`, `attention` and `mlp`,
    √Σ‖W‖² / √Σ‖W₀‖².

    For each matrix of the last update Δ: `norm/delta/<site>` ‖Δ‖, `norm/growth_cross/<site>` 2⟨W, Δ⟩ with W
    as it was before the step, `norm/growth_square/<site>` ‖Δ‖², and `norm/update_cosine/<site>`, the cosine
    between Δ and the update of the step before, if that was measured too. `norm/growth_rho/<site>` ρ, and
    `norm/growth_rho/edited` that of all edited matrices together, while every step since the start was seen.
    """

    name: str = "norms"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))
    whole: Cadence = field(default_factory=lambda: Cadence(every=10))
    """When all matrices are measured, the updated ones from their entries rather than from factors."""

    steps: bool = False
    """Whether a copy of the edited matrices is kept from one measurement to the next, in memory and in
    checkpoints, so that the steps of a training are split, too. With `cadence.every=1` all are."""

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Forget the measurements of an earlier run; the unedited weights come with each observation."""
        self._before: dict[Site, Tensor] = {}
        self._growth: dict[Site, tuple[float, float]] | None = None
        self._squares: dict[Site, float] = {}
        self._measured_at = (-1, -1, -1)
        self._latest: WeightUpdate = {}

    def memory(self) -> dict[str, Tensor]:
        """The squares of the norms, when they were measured, the last update, and the sums of the growth."""
        memory = {"measured_at": torch.tensor(self._measured_at)} | factors(self._latest)
        memory |= {f"square/{site}": _double(square) for site, square in self._squares.items()}
        memory |= {f"before/{site}": weight for site, weight in self._before.items()}
        growth = {} if self._growth is None else self._growth
        memory |= {
            f"growth/{site}": torch.tensor(terms, dtype=torch.float64) for site, terms in growth.items()
        }
        return memory | {"unbroken": torch.tensor(self._growth is not None)}

    def recall(self, model: Model, memory: Mapping[str, Tensor]) -> None:
        """Restore what `memory` returned."""
        part, count, changes = memory["measured_at"].tolist()
        self._measured_at = (part, count, changes)
        self._squares = {site: float(value) for site, value in _entries(memory, "square/").items()}
        self._latest = from_factors({name: value.to(model.device) for name, value in memory.items()})
        self._before = {site: value.to(model.device) for site, value in _entries(memory, "before/").items()}
        growth = {site: (float(x[0]), float(x[1])) for site, x in _entries(memory, "growth/").items()}
        self._growth = growth if bool(memory.get("unbroken", False)) else None

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Norms of all matrices or of the edited ones, and the terms of the last update."""
        reference = observation.reference
        assert reference is not None, "the norms stage needs the unedited weights"
        update = observation.update or self._moved(model, observation)
        terms = {site: _terms(model, site, delta) for site, delta in update.items()}
        whole = self.whole.due(observation.before, observation.count, observation.total)
        if whole:
            self._squares = _squares(model, reference.weights)
        elif self._follows(observation):
            for site, (cross, square) in terms.items():
                self._squares[site] += cross + square
        else:
            self._squares |= _squares(model, observation.edited)
        sites = self._squares if whole else dict.fromkeys(observation.edited)
        result = self._norms(reference, sites) | self._steps(
            terms, update, consecutive=self._is_next(observation)
        )
        result |= self._ratios_of_growth(terms, observation)
        if whole:
            result |= _distances(model, reference)
        self._measured_at = (observation.part, observation.count, observation.changes)
        return result | self._stacked(reference, observation.edited, whole=whole)

    def _moved(self, model: Model, observation: Observation) -> WeightUpdate:
        """The last step of a training, from copies of the matrices before it; empty without them."""
        if not self.steps:
            return {}
        before, is_next = self._before, self._is_next(observation)
        self._before = {site: model.current(site).clone() for site in observation.edited}
        if not is_next or set(before) != set(self._before):
            return {}
        return {
            site: Delta(left=at_least_float32(now) - at_least_float32(before[site]))
            for site, now in self._before.items()
        }

    def _ratios_of_growth(
        self, terms: Mapping[Site, tuple[float, float]], observation: Observation
    ) -> Measurement:
        """ρ of every edited matrix and of all, as long as no step was missed since the start of the run."""
        if observation.is_unedited:
            self._growth = {}
        elif not terms or not self._is_next(observation):
            self._growth = None
        if self._growth is None:
            return {}
        for site, (cross, square) in terms.items():
            crosses, squares = self._growth.get(site, (0.0, 0.0))
            self._growth[site] = crosses + cross, squares + square
        sums = {str(site): both for site, both in self._growth.items()}
        sums["edited"] = math.fsum(c for c, _ in sums.values()), math.fsum(s for _, s in sums.values())
        return {
            f"norm/growth_rho/{name}": crosses / squares
            for name, (crosses, squares) in sums.items()
            if squares
        }

    def _follows(self, observation: Observation) -> bool:
        """Whether the last measurement was one step ago and the update covers every edited matrix."""
        return self._is_next(observation) and set(observation.edited) <= set(observation.update)

    def _is_next(self, observation: Observation) -> bool:
        """Whether the last measurement was one step ago."""
        part, count, changes = self._measured_at
        # another part of the run may have changed the weights in between, whatever its count was
        is_same = (observation.part, observation.before) == (part, count)
        return is_same and observation.changes - changes <= 1

    def _norms(self, reference: Reference, sites: Iterable[Site]) -> Measurement:
        result: Measurement = {}
        for site in sites:
            # rounding can make the square of a vanished matrix negative
            norm = math.sqrt(max(self._squares[site], 0.0))
            result[f"norm/frobenius/{site}"] = norm
            result[f"norm/frobenius_ratio/{site}"] = ratio(norm, reference.norms[site])
        return result

    def _steps(
        self, terms: Mapping[Site, tuple[float, float]], update: WeightUpdate, *, consecutive: bool
    ) -> Measurement:
        result: Measurement = {}
        for site, (cross, square) in terms.items():
            result[f"norm/delta/{site}"] = square**0.5
            result[f"norm/growth_cross/{site}"] = cross
            result[f"norm/growth_square/{site}"] = square
            before = self._latest.get(site) if consecutive else None
            if before is not None and square > 0 and before.square() > 0:
                cosine = update[site].dot(before) / (square * before.square()) ** 0.5
                result[f"norm/update_cosine/{site}"] = cosine
        if update:
            # in the memory layout of a resumed run: the layout decides about the last bit
            self._latest = from_factors(factors(update))
        return result

    def _stacked(self, reference: Reference, edited: Sequence[Site], *, whole: bool) -> Measurement:
        """Ratios of groups of matrices stacked; of the edited ones alone if not all were measured."""
        groups = {"edited": set(edited)}
        if whole:
            groups["static"] = set(self._squares) - set(edited)
            for group, prefix in (("attention", "attn_"), ("mlp", "mlp_")):
                groups[group] = {site for site in self._squares if site.name.startswith(prefix)}
        return {
            f"norm/frobenius_ratio/{group}": _stacked_ratio(self._squares, reference, sites)
            for group, sites in groups.items()
            if sites
        }


def _entries(memory: Mapping[str, Tensor], prefix: str) -> dict[Site, Tensor]:
    """The tensors of the names that begin with a prefix, by site."""
    return {
        Site.parse(name.removeprefix(prefix)): value
        for name, value in memory.items()
        if name.startswith(prefix)
    }


def _double(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def _terms(model: Model, site: Site, delta: Delta) -> tuple[float, float]:
    """2⟨W, Δ⟩ and ‖Δ‖². The weight already holds Δ: ⟨W, Δ⟩ = ⟨W + Δ, Δ⟩ − ‖Δ‖²."""
    square = delta.square()
    return 2 * (delta.inner(model.master(site)) - square), square


def _squares(model: Model, sites: Iterable[Site]) -> dict[Site, float]:
    # summed as `Reference` does, so that an untouched matrix has a ratio of exactly 1
    sites = list(sites)
    norms = frobenius(model.current(site) for site in sites)
    return {site: norm**2 for site, norm in zip(sites, norms, strict=True)}


def _distances(model: Model, reference: Reference) -> Measurement:
    result: Measurement = {}
    for site, before in reference.weights.items():
        now, norm = model.current(site).double(), reference.norms[site]
        distance = float((now - before.to(now)).norm())
        result[f"norm/distance/{site}"] = distance / norm if norm else math.inf if distance else 0.0
    return result


def _stacked_ratio(squares: Mapping[Site, float], reference: Reference, sites: set[Site]) -> float:
    # fsum: a set has another order in every process, and the last bit would depend on it
    before = math.fsum(reference.norms[site] ** 2 for site in sites)
    return ratio(max(math.fsum(squares[site] for site in sites), 0.0), before) ** 0.5
