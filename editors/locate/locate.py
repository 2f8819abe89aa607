"""Locate-then-edit: keys → targets → residual → spread → solve → apply, layer by layer.

A method states where its residual is measured, how it is spread over the layers and how the equations
are solved; everything else is shared. One recorded forward pass serves the keys and residuals of all
edited layers: it is resumed above each layer once that layer is written.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.editor import Edit
from editors.errors import ConfigError, NumericsError
from editors.locate.contexts import ContextSource, Groups, flat, mean_over
from editors.locate.moments import SITE, MomentSource
from editors.locate.regularizers import Regularizer
from editors.locate.solvers import Preserved
from editors.locate.targets import TargetOptimizer, Targets
from editors.model.deltas import Delta, Site
from editors.model.facts import Fact
from editors.model.hooks import capture
from editors.model.model import Model
from editors.model.positions import place
from editors.model.replay import Replay, record


@dataclass(frozen=True)
class Keys:
    """Inputs of the edited matrix at the subjects, one column a fact."""

    mean: Float[Tensor, "in n"]
    """Averaged over the context templates."""
    bare: Float[Tensor, "in n"]
    """Of the bare prompt."""


@dataclass(kw_only=True)
class LocateThenEdit(ABC):
    """An editor that writes key–value pairs into the down projections of some blocks."""

    name: str
    layers: Sequence[int]
    """Edited blocks, lowest first; the targets live at the last."""
    targets: TargetOptimizer
    contexts: ContextSource
    moments: MomentSource
    preservation_weight: float = 1.0
    """λp, weight of the second moment of the corpus' keys."""
    regularizers: Mapping[str, Regularizer] = field(default_factory=dict)

    measured_at: ClassVar[str] = "block"
    """Whose output at the subject is compared with the target."""

    def __post_init__(self) -> None:
        self.layers = sorted(self.layers)
        if not self.preservation_weight > 0:
            raise ConfigError(
                f"editor.preservation_weight={self.preservation_weight}, but it has to be positive"
            )
        stops = [name for name, rule in self.regularizers.items() if rule.patience]
        if len(stops) > 1:
            raise ConfigError(f"{' and '.join(stops)} both decide when a target is final; choose one")
        self._stop = self.regularizers[stops[0]] if stops else Regularizer()
        self._remembers = any(rule.remembers for rule in self.regularizers.values())
        self._groups: Groups = ()
        self._preserved: dict[int, Preserved] = {}
        self._keys: dict[int, list[Tensor]] = {}
        self._prepared_for = ""

    @property
    def sites(self) -> Sequence[Site]:
        """The down projections of the edited blocks."""
        return [Site(SITE, layer) for layer in self.layers]

    @abstractmethod
    def solve(self, preserved: Preserved, keys: Keys, residual: Float[Tensor, "out n"]) -> Delta:
        """The update of one matrix that maps the keys closer to their values."""

    def spread(self, layers_left: int) -> float:
        """Which part of the residual the present layer takes; `layers_left` counts it."""
        return 1 / layers_left

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        """Sample the contexts, load the second moments and factor what is preserved."""
        model.check_layers(self.layers)
        if self.layers[-1] == model.depth - 1:
            raise ConfigError(
                f"layers.edit={list(self.layers)} ends at the last block of {model.name}, where what is "
                f"written at a subject reaches no later token; end at block {model.depth - 2} or below"
            )
        if self._preserved:
            if model.digest != self._prepared_for:
                raise ConfigError(
                    f"{self.name} was prepared for another model than {model.name}; make a new editor"
                )
            return
        self._prepared_for = model.digest
        self._groups = self.contexts.groups(model)
        ridge = sum(rule.ridge for rule in self.regularizers.values())
        for layer, moment in self.moments.load(model, self.layers).items():
            width = model.weight(SITE, layer).shape[1]
            if moment.shape != (width, width):
                raise ConfigError(
                    f"the second moment of layer {layer} is {tuple(moment.shape)}, but the keys of "
                    f"{model.name} have width {width}: it was collected on another model"
                )
            matrix = self.preservation_weight * moment.double().to(model.device)
            matrix.diagonal().add_(ridge)
            self._preserved[layer] = Preserved(matrix)
            self._keys[layer] = []

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Find targets for all facts together, then the updates layer by layer.

        Raises:
            NumericsError: for a target or an update with NaN or infinity; the weights are as they were.
        """
        begun = time.perf_counter()
        targets = self.targets.find(model, facts, self._groups, self.layers[-1], self._stop)
        found = time.perf_counter()
        with self._weights_kept(model):
            update, memory, residuals = self._insert(model, facts, targets)
        seconds = {"targets": found - begun, "insertion": time.perf_counter() - found}
        return Edit(
            update=update,
            targets=targets.vectors,
            memory=memory,
            diagnostics=_diagnostics(targets, memory, residuals),
            seconds=seconds,
        )

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Preserve the keys of an applied edit, where a regularizer remembers."""
        if not self._remembers:
            return
        for layer, keys in edit.memory.items():
            self._keys[layer].append(keys)
            self._preserved[layer].add(keys)

    def state_dict(self) -> dict[str, Tensor]:
        """The remembered keys of every layer, in order."""
        return {f"keys.{layer}": torch.cat(keys, dim=1) for layer, keys in self._keys.items() if keys}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember the keys again, in an editor that was prepared and has not edited yet."""
        assert not any(self._keys.values()), "this editor already has a history"
        for name, stored in state.items():
            layer = int(name.removeprefix("keys."))
            keys = stored.to(self._preserved[layer].inverse)
            self._keys[layer] = [keys]
            self._preserved[layer].add(keys)

    @contextmanager
    def _weights_kept(self, model: Model) -> Iterator[None]:
        """Give the edited matrices back as they were."""
        before = model.snapshot(self.sites)
        try:
            yield
        finally:
            model.restore(before)

    @torch.no_grad()
    def _insert(
        self, model: Model, facts: Sequence[Fact], targets: Targets
    ) -> tuple[dict[Site, Delta], dict[int, Tensor], list[float]]:
        """Write the layers one after another, each with the residual that the earlier ones left."""
        rows = _key_rows(model, facts, self._groups)
        replay = record(model, [()] * len(rows), rows, self.layers[0])
        last_column = torch.tensor([len(row) - 1 for row in rows], device=model.device)
        hidden, update, memory, residuals = replay.hidden, {}, {}, []
        for i, layer in enumerate(self.layers):
            keys, current = self._measure(model, replay, hidden, layer, last_column)
            residual = (targets.vectors - current).T
            residuals.append(float(residual.norm(dim=0).mean()))
            part = self.spread(len(self.layers) - i)
            delta = self.solve(self._preserved[layer], keys, residual.double() * part)
            self._check(delta, layer, facts, targets)
            site = Site(SITE, layer)
            model.apply({site: delta})
            update[site], memory[layer] = delta, keys.mean.double()
            if layer != self.layers[-1]:
                hidden = replay.run(hidden, layer, self.layers[i + 1] - 1)
        return update, memory, residuals

    def _measure(
        self, model: Model, replay: Replay, hidden: Tensor, layer: int, columns: Tensor
    ) -> tuple[Keys, Float[Tensor, "n out"]]:
        """Keys of `layer`, and what the last layer writes at the bare prompts' subjects."""
        last, size = self.layers[-1], len(flat(self._groups))
        bare = torch.arange(0, len(columns), size, device=columns.device)
        with capture(
            inputs={"k": model.module(SITE, layer)}, outputs={"v": model.module(self.measured_at, last)}
        ) as seen:
            above = replay.run(hidden, layer, layer)
            if layer < last:
                replay.select(bare).run(above[bare], layer + 1, last)
        rows = torch.arange(len(columns), device=columns.device)
        precise = torch.promote_types(model.dtype, torch.float32)
        keys = seen["k"][rows, columns].to(precise).view(len(bare), size, -1)
        values = seen["v"] if layer < last else seen["v"][bare]
        current = values[torch.arange(len(bare), device=columns.device), columns[bare]].to(precise)
        return Keys(mean_over(self._groups, keys).T, keys[:, 0].T), current

    def _check(self, delta: Delta, layer: int, facts: Sequence[Fact], targets: Targets) -> None:
        if delta.is_finite():
            return
        norms = targets.vectors.norm(dim=1)
        worst = int(norms.nan_to_num(float("inf")).argmax())
        raise NumericsError(
            f"the update of layer {layer} is not finite while editing {len(facts)} facts; the largest "
            f"target is that of fact {facts[worst].id}, norm {float(norms[worst]):.3g}; nothing was changed"
        )


def _key_rows(model: Model, facts: Sequence[Fact], groups: Groups) -> list[tuple[int, ...]]:
    """Every fact in every template, cut after the subject: what follows cannot reach its key."""
    placed = [place(model.tokenizer, fact, template) for fact in facts for template in flat(groups)]
    return [row.ids[: row.subject_last + 1] for row in placed]


def _diagnostics(
    targets: Targets, memory: Mapping[int, Tensor], residuals: Sequence[float]
) -> dict[str, float]:
    """Means over the facts of a batch."""
    keys = torch.cat([k.norm(dim=0) for k in memory.values()])
    return {
        "target_norm": float(targets.vectors.norm(dim=1).mean()),
        "initial_norm": float(targets.initial.norm(dim=1).mean()),
        "key_norm": float(keys.mean()),
        "residual_norm": residuals[0],
        "optimiser_steps": float(targets.steps.double().mean()),
        "target_loss": float(targets.losses.mean()),
    }
