"""What an editor is: it turns facts into a weight update and owns what it remembers of earlier ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from editors.data import Fact
from editors.models.model import Model
from editors.updates import Site, WeightUpdate


@dataclass(frozen=True)
class Targets:
    """Result of the optimisation, one row a fact."""

    vectors: Float[Tensor, "fact width"]
    """v* = v_init + δ."""
    initial: Float[Tensor, "fact width"]
    """v_init, the vector of the bare prompt."""
    written: Float[Tensor, "fact width"]
    """The part of v_init that the MLP wrote."""
    losses: Float[Tensor, " fact"]
    """Loss at the δ that was kept."""
    steps: Int[Tensor, " fact"]
    """Optimiser steps taken; at most one less than evaluations."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Result of editing one batch of facts; nothing has been applied yet."""

    update: WeightUpdate
    targets: Tensor | None = None
    """(fact, width): what the edited block should write at each subject, where a method has such."""
    memory: Mapping[int, Tensor] = field(default_factory=dict)
    """Per layer what the editor will remember once the update is applied."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Means over the batch, for example `target_norm`."""
    details: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The same with an entry for each fact, where a method tells facts apart."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time by phase, for example `targets`."""


@runtime_checkable
class Editor(Protocol):
    """The life of an editor: `prepare` once, then `edit`, apply and `commit` for every batch."""

    @property
    def name(self) -> str:
        """As in configurations and results."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """Every matrix that it changes, of any kind and block."""
        ...

    @property
    def statistics(self) -> str:
        """Which second moments its updates rest on; empty where it needs none."""
        ...

    @property
    def trained(self) -> bool:
        """Whether it was itself trained on facts; runs then edit facts of other subjects."""
        ...

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        """Do what has to be done once, on the unedited model; calling it again changes nothing.

        An editor that has to be trained is trained, or its weights are loaded, here. `facts` are those that
        will be edited, for what is calibrated on them.
        """
        ...

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes that preparing and then editing these facts together takes beside the model, estimated."""
        ...

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Find the update that writes the facts; the weights are left as they were."""
        ...

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Remember an edit after its update was applied to the model."""
        ...

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """Everything needed to continue the sequence.

        Of what only grows, such as remembered keys, what came after the first `since` edits: saved in pieces,
        each is written once. `since` is a number of edits at which a batch ended.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken; after `prepare`. Pieces are loaded one after another."""
        ...
