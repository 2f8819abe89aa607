"""Every editor on a second device: no tensor is left behind on the CPU."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from editors.base import Editor
from editors.updates import Site
from tests.editors.cases import EDITORS, perform
from tests.second_device import SECOND, SecondDevice, moved
from tests.tiny import FACTS, FAMILIES, tiny_model

EACH = pytest.mark.parametrize("editor", EDITORS)


def last_update(editor: str, family: str, device: SecondDevice | None = None) -> Mapping[Site, Tensor]:
    """The third of three edits, by an editor restored from the state that the first two left on the disk."""
    model = tiny_model(family) if device is None else moved(tiny_model(family), device)

    def prepared() -> Editor:
        made = EDITORS[editor](model)
        made.prepare(model)
        return made

    first = prepared()
    perform(model, first, FACTS[:1], FACTS[1:2])
    twin = prepared()
    twin.load_state_dict({key: value.cpu() for key, value in first.state_dict().items()})
    return {site: delta.dense() for site, delta in twin.edit(model, FACTS[2:]).update.items()}


@EACH
def test_a_sequence_of_edits_stays_on_the_device_of_the_model(editor):
    """The numbers are those of the CPU; only attention is computed in another order."""
    expected = last_update(editor, "gpt2")
    with SecondDevice() as device:
        update = last_update(editor, "gpt2", device)
        assert {delta.device for delta in update.values()} == {SECOND}
        for site, delta in expected.items():
            torch.testing.assert_close(update[site].cpu(), delta, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_edited_on_the_device(family):
    with SecondDevice() as device:
        update = last_update("encore", family, device)
        assert all(bool(delta.isfinite().all()) for delta in update.values())
