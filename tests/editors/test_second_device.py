"""Every editor on a second device: no tensor is left behind on the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from editors.base import Editor
from editors.locate.base import LocateThenEdit
from editors.methods.gradient_editor import AdamEditor
from editors.models.model import Model
from editors.regularizers.history import History
from editors.regularizers.hypersphere import Hypersphere
from editors.regularizers.norm_anchor import NormAnchor
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.prune import Prune
from editors.regularizers.rect import Rect
from editors.regularizers.simie import SimIE
from editors.regularizers.subspace_guard import SubspaceGuard
from editors.updates import Site
from tests.editors.cases import EDITORS, make_finetuning, make_memit, perform
from tests.second_device import SECOND, SecondDevice, moved
from tests.tiny import FACTS, FAMILIES, tiny_model

RULES: dict[str, Callable[[Model], Editor]] = {
    "norm_anchor": lambda model: make_memit(model, regularizers={"anchor": NormAnchor()}),
    "rect": lambda model: make_memit(model, regularizers={"history": History(), "rect": Rect()}),
    "prune": lambda model: make_memit(model, regularizers={"prune": Prune(every=2)}),
    "subspace_guard": lambda model: make_memit(model, regularizers={"guard": SubspaceGuard()}),
    "hypersphere": lambda model: make_memit(model, regularizers={"sphere": Hypersphere()}),
    "simie": lambda model: make_finetuning(model, regularizers={"simie": SimIE()}),
    "norm_reset": lambda model: make_memit(model, regularizers={"reset": NormReset()}),
    "replay": lambda model: make_memit(model, replay=True),
    "compensate": lambda model: make_memit(
        model, compensate=True, regularizers={"history": History(), "rect": Rect()}
    ),
}
"""Regularizers that no editor of the table has, and options."""


def last_update(
    make: Callable[[Model], Editor], family: str, device: SecondDevice | None = None
) -> Mapping[Site, Tensor]:
    """The third of three edits, by an editor restored from the state that the first two left on the disk."""
    model = tiny_model(family) if device is None else moved(tiny_model(family), device)

    def prepared() -> Editor:
        made = make(model)
        made.prepare(model, FACTS)
        return made

    first, twin = prepared(), prepared()
    perform(model, first, FACTS[:1], FACTS[1:2])
    twin.load_state_dict({key: value.cpu() for key, value in first.state_dict().items()})
    return {site: delta.dense() for site, delta in twin.edit(model, FACTS[2:]).update.items()}


@pytest.mark.long
@pytest.mark.parametrize("editor", [*EDITORS, *RULES])
def test_a_sequence_of_edits_stays_on_the_device_of_the_model(editor):
    """The numbers are those of the CPU; only attention is computed in another order."""
    make = (EDITORS | RULES)[editor]
    expected = last_update(make, "gpt2")
    with SecondDevice() as device:
        update = last_update(make, "gpt2", device)
        assert {delta.device for delta in update.values()} == {SECOND}
        for site, delta in expected.items():
            torch.testing.assert_close(update[site].cpu(), delta, rtol=1e-5, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_edited_on_the_device(family):
    with SecondDevice() as device:
        update = last_update(EDITORS["encore"], family, device)
        assert all(bool(delta.isfinite().all()) for delta in update.values())


def waits(editor: str, steps: int) -> int:
    """How often the host waits for the device while so many steps are taken, edit and insertion together."""
    with SecondDevice() as device:
        model = moved(tiny_model(), device)
        made = EDITORS[editor](model)
        if isinstance(made, LocateThenEdit):
            made.targets = replace(made.targets, steps=steps, loss_threshold=0.0)
        else:
            assert isinstance(made, AdamEditor)
            made.steps, made.loss_threshold = steps, 0.0
        made.prepare(model)
        device.waits.clear()
        edit = made.edit(model, FACTS[:1])
        assert edit.diagnostics["optimiser_steps"] == steps - isinstance(made, LocateThenEdit)
        return device.waits.total()


@pytest.mark.parametrize("editor", sorted(EDITORS.keys() - {"ultraedit", "stableedit", "mend"}))
def test_a_step_makes_the_host_wait_at_most_once(editor):
    """Editors that take steps; a step of the targets has one answer to wait for: which of them are done."""
    assert 0 < waits(editor, 4) - waits(editor, 2) <= 2


def test_facts_that_end_early_cost_no_more_waits():
    """The batch shrinks on the host."""
    with SecondDevice() as device:
        model = moved(tiny_model(), device)
        made = EDITORS["memit"](model)
        assert isinstance(made, LocateThenEdit)
        made.targets = replace(made.targets, steps=12, loss_threshold=9.0)
        made.prepare(model)
        device.waits.clear()
        steps = made.edit(model, FACTS).details["optimiser_steps"]
        assert len(set(steps)) > 1
        optimising = [count for line, count in device.waits.items() if "targets.py" in line]
        assert optimising == [max(steps) + 1]
