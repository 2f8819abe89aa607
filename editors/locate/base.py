"""Locate-then-edit: keys → targets → residual → spread → solve, layer by layer.

A method defines the module at which its residual is measured, its spread over the layers, the preserved
directions and the solution of the equations; everything else is shared. The weights are read and never
touched: the effect of a layer's update on the layers above is added to the recorded pass (`keys.py`).

If a norm lies between the MLP and the residual stream (Gemma 2 and 3, OLMo 2), a residual of the stream
cannot be spread over blocks, because what a down projection adds to its output is not what arrives in the
stream. Every edited block then has a target of its own, the output of its MLP before that norm
(`targets.py`), and takes the whole residual of it. If all are met, the subject's states are those of the
optimisation.
"""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Cause, Edit, Editor, Targets
from editors.data import SLOT, Fact
from editors.errors import ConfigError, check_positive
from editors.locate.contexts import ContextSource, Groups
from editors.locate.diagnostics import check_finite, details, strengths
from editors.locate.keys import KeyPass, Keys, keys_of
from editors.locate.located_edit import Insertion, LocatedEdit
from editors.locate.memory_estimate import estimated
from editors.locate.one_batch import OneBatch
from editors.locate.targets import TargetOptimizer
from editors.models.model import Model
from editors.moments.moment_sources import SITE, MomentSource
from editors.phases import Phase, Report, silent
from editors.regularizers.base import Progress, Regularizer
from editors.regularizers.composition import RegularizerChain
from editors.solvers import Dense, Preserved
from editors.updates import Delta, Site, plain


@dataclass(kw_only=True)
class LocateThenEdit(Editor):
    """An editor that writes key–value pairs into the down projections of some blocks."""

    spreads: ClassVar[bool] = True

    name: str
    layers: Sequence[int]
    """Edited blocks, lowest first; the targets live at the last, or at each if a norm follows the MLP."""
    targets: TargetOptimizer
    """The optimiser of target vectors."""
    contexts: ContextSource
    """Templates over which keys and likelihoods are averaged."""
    moments: MomentSource
    """Second moments C of the corpus' keys."""
    preservation_weight: float = 1.0
    """λp, weight of the second moment of the corpus' keys; a larger one preserves more and edits less."""
    compensate: bool = False
    """Whether an edit makes up for what regularizers took from the update before it; needs `history`."""
    certify: bool = False
    """Whether every edit is compared with one batch of all facts so far (`one_batch.py`); needs `history`."""
    replay: bool = False
    """Whether targets are set at the first edited block, and every later block's are what the model makes of
    them; otherwise they are set at the last, and the residual is spread over the blocks."""
    regularizers: Mapping[str, Regularizer] = field(default_factory=dict)
    """Regularizers at any point of an edit."""

    measured_at: ClassVar[str] = "block"
    """The module whose output at the subject is compared with the target."""
    averages_output = False
    """Whether that output is averaged over the context templates like the key."""
    remembered: ClassVar[Literal["before", "after"] | None] = "before"
    """The keys of earlier edits that the published code preserves; None if it has no term for them."""
    is_least_squares: ClassVar[bool] = True
    """Whether `solve` minimises tr(Δ A Δᵀ) + ‖Δ K − R‖², with one A but for the keys of earlier edits."""

    def __post_init__(self) -> None:
        self.layers = sorted(self.layers)
        check_positive("editor", preservation_weight=self.preservation_weight)
        if self.replay and self.measured_at != "block":
            raise ConfigError(
                f"editor.replay sets targets at the output of blocks, but {self.name} sets them inside one: "
                "drop it or use memit"
            )
        self._chain = RegularizerChain(self.regularizers, self.name)
        if self.certify and (not self.is_least_squares or self.remembered is None):
            raise ConfigError(
                f"editor.certify compares with the least squares of all facts, but {self.name} solves other "
                "equations; drop it or use memit"
            )
        for option in ("compensate", "certify"):
            if getattr(self, option) and not self._chain.remembers(self.remembered or "before"):
                raise ConfigError(
                    f"editor.{option} is about the equations of all edits so far, so that it needs the "
                    "regularizer history; drop the one or add the other"
                )
        if self.remembered is None and self._chain.remembers("before"):
            raise ConfigError(
                f"history keeps the keys of earlier edits, but {self.name} has no place for them in its "
                f"equations; drop it or use memit"
            )
        self._groups: Groups = ()
        self._preserved: dict[int, Preserved] = {}
        self._strengths: dict[str, float] = {}
        self._keys: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        self._sampled_on = ""
        self._missing: dict[int, Tensor] = {}
        """Per layer, what regularizers changed in the last update: Δ′ − Δ."""
        self._one_batch = OneBatch()

    @property
    def sites(self) -> Sequence[Site]:
        """The down projections of the edited blocks."""
        return [Site(SITE, layer) for layer in self.layers]

    @property
    def statistics(self) -> str:
        """The label of the second moments."""
        return self.moments.label

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """Settings of the targets' optimiser, and those of the equations."""
        fewer = f", or drop a regularizer ({', '.join(self.regularizers)})" if self.regularizers else ""
        return {"target": self.targets.remedy, "insertion": self.insertion_remedy + fewer}

    @property
    def insertion_remedy(self) -> str:
        """The settings to change if the update does not produce its targets."""
        return (
            f"lower editor.preservation_weight ({self.preservation_weight:g}) or edit more blocks "
            f"(layers.edit={list(self.layers)})"
        )

    @abstractmethod
    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """The update of one matrix that maps the keys closer to their values."""

    @property
    def added_ridge(self) -> float:
        """λn, the multiple of the identity that regularizers add to what is preserved."""
        return self._chain.ridge

    def spread(self, layers_left: int) -> float:
        """The share of the residual that the current layer takes; `layers_left` includes it."""
        return 1 / layers_left

    def preserve(self, model: Model, report: Report = silent) -> dict[int, Preserved]:
        """The preserved directions of every layer: λp C + λn I."""
        preserved: dict[int, Preserved] = {}
        means: list[float] = []
        for layer, moment in self._moments(model, report).items():
            report(_factoring(len(preserved), len(self.layers)))
            weighted = self.preservation_weight * moment.double().to(model.device)
            preserved[layer] = Dense(weighted, self.added_ridge)
            means.append(float(weighted.diagonal().mean()))
        self._strengths = strengths(sum(means) / len(means), self.added_ridge)
        return preserved

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Sample the contexts, prepare the regularizers, and factor what is preserved."""
        self._check(model)
        if self._preserved:
            return
        self._sample(model, report)
        if self.regularizers:
            report(Phase(name="calibrating regularizers"))
        self._chain.calibrate(lambda sample: self._unstopped(model, sample), facts)
        self._chain.prepare(model, self.sites)
        if self.certify:
            self._one_batch = OneBatch(model, self.layers)
        self._preserved = self.preserve(
            model, report
        )  # last: statistics can take hours, and they mark the editor as prepared

    def contexts_of(
        self, model: Model, facts: Sequence[Fact], report: Report = silent
    ) -> Sequence[Sequence[str]]:
        """The sampled contexts, and those that the optimiser of the targets adds."""
        self._sample(model, report)
        return self.targets.contexts_of(facts, self._groups)

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model, measured on the fact with the longest prompt."""
        self._check(model)
        self._sample(model)
        return estimated(model, self.targets, facts, self._groups, self.layers, self._aimed(model)).peak

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Find targets for all facts together, then the updates layer by layer.

        Raises:
            NumericsError: for a target or an update with NaN or infinity.
        """
        begun = time.perf_counter()
        targets = self._chain.aim(self._find(model, facts))
        optimised = time.perf_counter()
        made = self._insert(model, facts, targets)
        update = self._chain.finish(made.update, model, facts, Progress(self.edits, self.edits + len(facts)))
        per_fact = details(targets, made.keys, made.first)
        for site, delta in update.items():
            check_finite(delta.is_finite(), f"the update of {site}", facts, targets)
        return LocatedEdit(
            update=update,
            solved=made.update,
            residuals=made.residuals,
            targets=made.goals[self._aimed(model)[-1]],
            memory=made.keys,
            diagnostics={
                **{name: float(values.mean()) for name, values in per_fact.items()},
                **self._strengths,
                **self._one_batch.diagnostics(model, self._preserved, made, update),
            },
            details={name: values.tolist() for name, values in per_fact.items()},
            seconds={"targets": optimised - begun, "insertion": time.perf_counter() - optimised},
        )

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Preserve the keys of an applied edit if a regularizer remembers them."""
        super().commit(model, facts, edit)
        self._chain.commit()
        if self.compensate:
            assert isinstance(edit, LocatedEdit), "another editor made this edit"
            self._missing = {
                site.layer: plain(delta.dense().double() - edit.solved[site].dense().double())
                for site, delta in edit.update.items()
            }
        which = self._chain.remembers(self.remembered or "before")
        if which is None:
            return
        keys = edit.memory if which == "before" else keys_of(model, facts, self._groups, self.layers)
        for layer in self.layers:
            self._remember(layer, keys[layer])
            if self.certify:
                assert isinstance(edit, LocatedEdit), "another editor made this edit"
                self._one_batch.commit(model, layer, edit, self._keys[layer][-1])

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of edits, the state of the regularizers, and per layer the keys remembered after the
        first `since` edits, with the sizes of their batches."""
        state = super().state_dict(since) | self._chain.state_dict()
        state |= {f"missing.{layer}": matrix for layer, matrix in self._missing.items()}
        for layer, remembered in self._keys.items():
            ends = accumulate(batch.shape[1] for batch in remembered)
            keys = [batch for batch, end in zip(remembered, ends, strict=True) if end > since]
            if keys:
                state[f"keys.{layer}"] = torch.cat(keys, dim=1)
                state[f"batches.{layer}"] = torch.tensor([batch.shape[1] for batch in keys])
                state |= self._one_batch.state_dict(layer, len(keys))
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember the keys again, in a prepared editor; pieces are loaded in order."""
        super().load_state_dict(state)
        self._chain.load_state_dict(state)
        self._missing = {
            layer: state[f"missing.{layer}"] for layer in self.layers if f"missing.{layer}" in state
        }
        for layer in self.layers:
            if f"keys.{layer}" in state:
                sizes = state[f"batches.{layer}"].tolist()
                for keys in state[f"keys.{layer}"].split(sizes, dim=1):  # batch by batch, for the same bits
                    self._remember(layer, keys)
                self._one_batch.load_state_dict(layer, state, self._keys[layer][-len(sizes) :])

    def _remember(self, layer: int, keys: Float[Tensor, "in n"]) -> None:
        keys = plain(keys)  # laid out as in a restored state
        self._keys[layer].append(keys.cpu())  # only a restored editor reads them again
        self._preserved[layer].add(keys)

    def _sample(self, model: Model, report: Report = silent) -> None:
        """The contexts of this model, sampled once."""
        if model.digest != self._sampled_on:
            self._groups, self._sampled_on = self.contexts.groups(model, report), model.digest

    def _aimed(self, model: Model) -> Sequence[int]:
        """The blocks whose targets are optimised."""
        if model.has_normed_mlp:
            return self.layers
        return [self.layers[0] if self.replay else self.layers[-1]]

    def _find(self, model: Model, facts: Sequence[Fact]) -> Targets:
        return self.targets.find(model, facts, self._groups, self._aimed(model), self._chain.stop)

    def _unstopped(self, model: Model, facts: Sequence[Fact]) -> Targets:
        """Targets of the bare prompts, without a stop rule."""
        return self.targets.find(model, facts, ((SLOT,),), self._aimed(model), Regularizer())

    def _goals(self, walk: KeyPass, targets: Targets) -> dict[int, Float[Tensor, "n out"]]:
        """The output that each block with a target should have; the others take a share of the residual."""
        if walk.model.has_normed_mlp:
            return walk.shifted(targets.vectors - targets.initial)
        vectors = targets.vectors[:, 0]
        return walk.replayed(vectors) if self.replay else {self.layers[-1]: vectors}

    @torch.no_grad()
    def _insert(self, model: Model, facts: Sequence[Fact], targets: Targets) -> Insertion:
        """Solve the layers one after another, each for the residual left by the earlier ones."""
        walk = KeyPass(model, facts, self._groups, self.layers)
        goals, module = self._goals(walk, targets), "mlp" if model.has_normed_mlp else self.measured_at
        update, memory, residuals, first = {}, {}, {}, torch.empty(0)
        for i, layer in enumerate(self.layers):
            measured = layer if layer in goals else self.layers[-1]
            keys, current = walk.measure(layer, module, self.averages_output, measured)
            site = Site(SITE, layer)
            residual = (goals[measured] - current).T
            finite = bool(residual.isfinite().all() and keys.mean.isfinite().all())
            check_finite(finite, f"a key or residual of {site}", facts, targets)
            first = residual.norm(dim=0) if i == 0 else first
            part = 1.0 if layer in goals else self.spread(len(self.layers) - i)
            residuals[layer] = residual.double() * part
            delta = self._solve(layer, keys, residuals[layer])
            update[site], memory[layer] = self._chain.project(site, delta), keys.mean
            check_finite(update[site].is_finite(), f"the update of {site}", facts, targets)
            if layer != self.layers[-1]:
                walk.write(layer, update[site], until=self.layers[i + 1])
        return Insertion(goals=goals, update=update, keys=memory, residuals=residuals, first=first)

    def _solve(self, layer: int, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """Δ, or with D = Δ′ − Δ of the last edit the solution for R + D K, less D.

        That is (R Kᵀ − E) (A + K Kᵀ)⁻¹ with E = D A, the error that D has left in the equations of all edits
        so far. Source: arXiv 2605.26670 and Wangzzzzzzzz/OTE-SE-Alignment, whose A also holds the identity.
        """
        preserved, missing = self._preserved[layer], self._missing.get(layer)
        if missing is None:
            return self.solve(preserved, keys, residual)
        missing = missing.to(residual)
        delta = self.solve(preserved, keys, residual + missing @ keys.mean.double())
        return replace(delta, left=delta.dense().double() - missing, right=None)

    def _moments(self, model: Model, report: Report) -> dict[int, Float[Tensor, "in in"]]:
        """The second moments, with their widths checked."""
        moments = dict(self.moments.load(model, self.layers, report))
        for layer, moment in moments.items():
            self._check_width(model, layer, moment)
        return moments

    def _check_width(self, model: Model, layer: int, moment: Float[Tensor, "in in"]) -> None:
        width = model.weight(SITE, layer).shape[1]
        if moment.shape[0] != width:
            raise ConfigError(
                f"the second moment of layer {layer} is {tuple(moment.shape)}, but the keys of "
                f"{model.name} have width {width}: it was collected on another model"
            )

    def _check(self, model: Model) -> None:
        """Raise a `ConfigError` if the editor cannot edit this model."""
        model.check_layers(self.layers)
        self.targets.check(model)
        if self.replay and model.has_normed_mlp:
            raise ConfigError(
                f"editor.replay=true sets targets in the residual stream, but {model.name} has a norm after "
                "each MLP and a target for every edited block: leave it out"
            )
        if self.layers[-1] == model.depth - 1:
            raise ConfigError(
                f"layers.edit={list(self.layers)} ends at the last block of {model.name}, where what is "
                f"written at a subject reaches no later token; end at block {model.depth - 2} or below"
            )
        if self._preserved and model.digest != self._sampled_on:
            raise ConfigError(
                f"{self.name} was prepared for another model than {model.name}; make a new editor"
            )


def _factoring(done: int, layers: int) -> Phase:
    return Phase(name="factoring what is preserved", count=done, total=layers, unit="layers")
