"""The base class of editors: an editor turns facts into a weight update and remembers earlier edits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.data import SLOT, Fact, Reader, as_it_is
from editors.models.model import Model
from editors.phases import Report, silent
from editors.updates import Site, WeightUpdate

Cause = Literal["target", "insertion", "edit"]
"""The failed step of an edit that did not take; `edit` for methods without targets."""


@dataclass(frozen=True)
class Targets:
    """Result of the optimisation of targets, one row per fact.

    There is one layer, or all edited ones if a norm lies between the MLP and the residual stream.
    """

    vectors: Float[Tensor, "fact layer width"]
    """v* = v_init + δ."""
    initial: Float[Tensor, "fact layer width"]
    """v_init, the vector of the bare prompt."""
    written: Float[Tensor, "fact layer width"]
    """The MLP's part of v_init."""
    losses: Float[Tensor, " fact"]
    """Loss at the final δ."""
    steps: Int[Tensor, " fact"]
    """Number of optimiser steps; at most one less than evaluations."""
    correct: Bool[Tensor, " fact"]
    """Whether the new object is the first choice after the bare prompt, with the final δ in place."""

    @staticmethod
    def joined(chunks: "Sequence[Targets]") -> "Targets":
        """The rows of all chunks."""
        return Targets(*(torch.cat([getattr(one, each.name) for one in chunks]) for each in fields(Targets)))

    def to(self, device: torch.device | str) -> "Targets":
        """The same tensors on this device."""
        return Targets(*(getattr(self, each.name).to(device) for each in fields(self)))

    def at(self, rows: Int[Tensor, " row"]) -> "Targets":
        """These rows, in this order."""
        return Targets(*(getattr(self, each.name)[rows] for each in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Result of editing one batch of facts, before it is applied."""

    update: WeightUpdate
    targets: Tensor | None = None
    """(fact, width): the intended output of the last block with targets, or of its MLP, at each subject; None
    without such targets."""
    memory: Mapping[int, Tensor] = field(default_factory=dict)
    """Per layer, the tensor to remember once the update is applied."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Means over the batch, for example `target_norm`."""
    details: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Diagnostics per fact: each sequence has one entry per fact; empty for methods without them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time by phase, for example `targets`."""


class Editor(ABC):
    """The life of an editor: `prepare` once, then `edit`, apply and `commit` for every batch.

    A new editor needs a `name`, `sites`, `prepare` and `edit`. The other members have defaults for an editor
    without parameters or statistics of its own that remembers only how many facts it has edited.
    """

    name: str
    """The editor's name in configurations and results."""
    edits: int = 0
    """Facts edited so far."""
    check_every: ClassVar[int] = 1
    """After the first hundred edits a run checks one batch of so many, by one forward pass over the edited
    prompts: 1 if an update costs far more than that pass, more if it hardly does; 0 never, for controls."""
    largest_batch: ClassVar[int | None] = None
    """Most facts that one call of `edit` takes; None is any number."""
    spreads: ClassVar[bool] = False
    """Whether several processes of a run, as started by torchrun, share the work of a batch."""

    @property
    @abstractmethod
    def sites(self) -> Sequence[Site]:
        """Every matrix that the editor changes, of any kind and block."""

    @property
    def statistics(self) -> str:
        """The label of the second moments that the updates depend on; empty if the editor uses none."""
        return ""

    @property
    def trained(self) -> bool:
        """Whether the editor itself was trained on facts; runs then edit facts about other subjects."""
        return False

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """What to try if edits do not take, by the cause: the settings that matter and their values."""
        return {}

    @abstractmethod
    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Do the work that is needed once, on the unedited model; preparing again changes nothing.

        An editor with weights of its own loads them here. `facts` are the facts of the run, for steps that
        are calibrated on them; `report` gets the phases of the work.
        """

    def contexts_of(
        self, model: Model, facts: Sequence[Fact], report: Report = silent
    ) -> Sequence[Sequence[str]]:
        """The contexts in which each fact is read when it is edited: templates with one slot each.

        By default the bare slot.
        """
        return [(SLOT,)] * len(facts)

    def reader(self, facts: Sequence[Fact]) -> Reader:
        """What the model reads for a prompt once these facts are edited, in this order.

        By default the prompt: the facts are in the weights.
        """
        return as_it_is

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Estimated bytes beside the model for preparing and editing these facts together.

        By default one dense update in float64.
        """
        return sum(8 * model.current(site).numel() for site in self.sites)

    @abstractmethod
    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """The update that writes the facts; the weights of the model stay unchanged."""

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Remember an edit after its update was applied to the model; by default count its facts."""
        self.edits += len(facts)

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """Everything needed to continue the sequence; by default the number of edits.

        State that only grows, such as remembered keys, is limited to the part added after the first `since`
        edits, so that a sequence saved in pieces writes each part once. A batch ended at `since`.
        """
        return {"edits": torch.tensor(self.edits)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`, after `prepare`; pieces are loaded in the order they were saved."""
        self.edits = int(state["edits"])
