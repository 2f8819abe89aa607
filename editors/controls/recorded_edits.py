"""An editor that returns the updates recorded by a run, or those of a control."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from editors.base import Edit, Editor
from editors.controls.controls import Control
from editors.data import Fact
from editors.errors import DataError
from editors.models.gradients import check_sites
from editors.models.model import Model
from editors.phases import Report, silent
from editors.update_files import Recorded
from editors.updates import Site

_CONTROL = "control."


@dataclass(kw_only=True)
class RecordedEdits(Editor):
    """Returns the recorded updates batch by batch, for the recorded facts; nothing is optimised."""

    batches: Sequence[Recorded]
    """The recorded batches, in order."""
    control: Control = field(default_factory=Control)
    """The control that transforms the updates; by default they stay unchanged."""
    undone: frozenset[str] = frozenset()
    """Ids of facts whose updates are left out, batch by batch."""
    name: str = "replay"
    check_every: ClassVar[int] = 0
    _done: int = field(default=0, init=False, repr=False)
    _sites: Sequence[Site] = field(default=(), init=False, repr=False)
    _model: Model | None = field(default=None, init=False, repr=False)

    @property
    def recorded_sites(self) -> Sequence[Site]:
        """Every matrix that a recorded update changes."""
        return list(dict.fromkeys(site for batch in self.batches for site in batch.sites))

    @property
    def sites(self) -> Sequence[Site]:
        """Every matrix that changes: once prepared, those of the control."""
        return self._sites or self.recorded_sites

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Check that the model has the matrices, and prepare the control on the unedited model."""
        check_sites(model, self.recorded_sites, "the recorded run")
        self._sites = self.control.sites(self.recorded_sites, model)
        self._done = self.edits = 0
        self.control.prepare(model, self.recorded_sites)
        self._model = model

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: an update of every matrix, and two copies for a control."""
        changed, recorded = self.control.sites(self.recorded_sites, model), self.recorded_sites
        sizes = [sum(8 * model.current(site).numel() for site in sites) for sites in (changed, recorded)]
        return sizes[0] + 2 * sizes[1]

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The next recorded update, transformed by the control.

        Raises:
            DataError: for facts other than the recorded ones.
        """
        begun = time.perf_counter()
        batch = self.batches[self._done] if self._done < len(self.batches) else None
        if batch is None or batch.facts != tuple(fact.id for fact in facts):
            raise DataError(
                f"{len(self.batches)} batches were recorded, and batch {self._done + 1} is not of these "
                "facts: edit the recorded facts in their order"
            )
        update = {site: delta.to(model.weight(*site).device) for site, delta in batch.update.items()}
        if batch.facts[0] in self.undone:
            update = {site: delta.scaled(0.0) for site, delta in update.items()}
        changed = self.control.act(model, update, self.edits)
        return Edit(update=changed, seconds={"reading": time.perf_counter() - begun})

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Continue with the next batch."""
        self.control.follow(self.batches[self._done])
        self.control.applied(model)
        self._done += 1
        super().commit(model, facts, edit)

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of batches, and the state of the control."""
        state = {f"{_CONTROL}{key}": value for key, value in self.control.state_dict().items()}
        return {"batches": torch.tensor(self._done)} | state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue after these batches; the control follows the completed ones and restores its own state."""
        done = int(state["batches"])
        for batch in self.batches[self._done : done]:
            self.control.follow(batch)
        self._done = done
        self.edits = sum(len(batch.facts) for batch in self.batches[:done])
        control = {
            key.removeprefix(_CONTROL): value for key, value in state.items() if key.startswith(_CONTROL)
        }
        assert self._model is not None, "prepare comes first"
        self.control.load_state_dict(self._model, control)
