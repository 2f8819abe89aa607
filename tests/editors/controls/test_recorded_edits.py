"""Updates on the disk come back as they were applied, or with a sentence."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from editors.base import Editor
from editors.controls.controls import Control
from editors.controls.recorded_edits import RecordedEdits
from editors.errors import ConfigError, DataError
from editors.update_files import packed, read_updates
from editors.updates import Delta, Site, WeightUpdate
from tests.editors.cases import bits, perform, same_bits
from tests.tiny import FACTS, tiny_model

DOWN = Site("mlp_down", 1)


def update(seed: int, dtype: torch.dtype = torch.float32) -> WeightUpdate:
    """A thin change with a transposed factor and a dense one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, 32, 128, generator=generator, dtype=dtype) / 100
    thin = Delta(left=drawn[0, :, :2], right=drawn[1, :2].T, dtype=torch.float32)
    return {DOWN: thin, Site("mlp_down", 0): Delta(left=drawn[2])}


def keep(folder: Path, *batches: tuple[tuple[str, ...], WeightUpdate], first: int = 0) -> None:
    """A piece of these batches."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, told = packed(batches, held_out=False)
    end = first + sum(len(facts) for facts, _ in batches)
    save_file(tensors, folder / f"{first:08d}-{end:08d}.safetensors", metadata=told)


def test_updates_come_back_bit_for_bit_in_the_layout_that_they_had(tmp_path: Path):
    given = [(("a", "b"), update(0)), (("c",), update(1))]
    keep(tmp_path, *given)
    keep(tmp_path, (("d",), update(2)), first=3)
    found = read_updates(tmp_path)
    assert [batch.facts for batch in found] == [("a", "b"), ("c",), ("d",)]
    for (_, expected), batch in zip([*given, (("d",), update(2))], found, strict=True):
        assert list(batch.update) == list(expected) == list(batch.sites)
        for site, delta in batch.update.items():
            assert delta.dtype == expected[site].dtype
            assert torch.equal(delta.dense(), expected[site].dense())
            assert delta.left.stride() == expected[site].left.stride()
            assert (delta.right is None) == (expected[site].right is None)


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path):
    folder = tmp_path / "run" / "updates"
    with pytest.raises(DataError, match=r"run .*keep_updates=true"):
        read_updates(folder)
    keep(folder, (("a",), update(0)))
    keep(folder, (("c",), update(0)), first=2)
    with pytest.raises(DataError, match="no updates of the edits 2 to 2"):
        read_updates(folder)
    keep(folder, (("b",), update(0)), first=1)
    assert len(read_updates(folder)) == 3
    torn = folder / "00000001-00000002.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"00000001-00000002\.safetensors cannot be read"):
        read_updates(folder)
    save_file({"x": torch.zeros(1)}, torn)
    with pytest.raises(DataError, match=r"00000001-00000002\.safetensors holds no updates"):
        read_updates(folder)


def recorded(folder: Path, control: Control | None = None) -> RecordedEdits:
    keep(folder, *(((fact.id,), update(i, torch.float64)) for i, fact in enumerate(FACTS)))
    return RecordedEdits(batches=read_updates(folder), control=control or Control())


def test_recorded_edits_are_an_editor_that_adds_what_was_recorded(tmp_path: Path):
    model, plain = tiny_model(), tiny_model()
    made = recorded(tmp_path)
    assert isinstance(made, Editor)
    before = bits(model)
    made.prepare(model)
    made.edit(model, FACTS[:1])
    assert same_bits(model, before)
    perform(model, made, *([fact] for fact in FACTS))
    for i in range(len(FACTS)):
        plain.apply(update(i, torch.float64))
    assert same_bits(model, bits(plain))


def test_other_facts_or_more_of_them_are_refused(tmp_path: Path):
    model = tiny_model()
    made = recorded(tmp_path)
    made.prepare(model)
    with pytest.raises(DataError, match=r"3 batches .* batch 1"):
        made.edit(model, FACTS[1:2])
    perform(model, made, *([fact] for fact in FACTS))
    with pytest.raises(DataError, match="batch 4"):
        made.edit(model, FACTS[:1])


def test_a_matrix_that_the_model_does_not_have_is_refused(tmp_path: Path):
    keep(tmp_path, (("a",), {Site("mlp_down", 9): update(0)[DOWN]}))
    with pytest.raises(ConfigError, match="4 blocks"):
        RecordedEdits(batches=read_updates(tmp_path)).prepare(tiny_model())
