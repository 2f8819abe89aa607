"""Kept updates that anybody may have written: wrong metadata and shapes get a sentence."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from editors.errors import DataError
from editors.tensor_files import write_tensors
from editors.update_files import packed, read_updates
from editors.updates import Delta, Site
from tests.tiny import tiny_model

SITE = Site("mlp_down", 0)
NAME = "00000000-00000001.safetensors"


def write(folder: Path, tensors: dict[str, Tensor] | None = None, **metadata: object) -> None:
    """A piece with one update of one fact; `metadata` replaces entries."""
    own, stored = packed([(["a"], {SITE: Delta(left=torch.ones(3, 2))})], held_out=False)
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    folder.mkdir(exist_ok=True)
    write_tensors(folder / NAME, tensors or own, stored | texts)


def entry(
    dtype: object = None, strides: object = None, site: str = str(SITE), facts: object = ("a",)
) -> list:
    layout = {"dtype": dtype, "strides": {"left": [2, 1]} if strides is None else strides}
    return [{"facts": facts, "deltas": {site: layout}}]


def test_a_good_piece_is_read(tmp_path: Path):
    write(tmp_path / "updates")
    (batch,) = read_updates(tmp_path / "updates")
    assert batch.facts == ("a",) and torch.equal(batch.update[SITE].left, torch.ones(3, 2))


@pytest.mark.parametrize(
    "batches",
    [
        [],
        7,
        [7],
        entry(dtype="load"),
        entry(dtype=7),
        entry(strides={}),
        entry(strides={"left": "x"}),
        entry(strides={"left": [-2, 1]}),
        entry(strides={"right": [2, 1]}),
        entry(site="mlp_down"),
        entry(site="../x.0"),
        entry(facts="a"),
        entry(facts=[1]),
    ],
)
def test_other_metadata_are_a_sentence(tmp_path: Path, batches: object):
    write(tmp_path / "updates", batches=batches)
    with pytest.raises(DataError, match=r"00000001\.safetensors holds no updates .* resume=never"):
        read_updates(tmp_path / "updates")


def test_strides_that_do_not_fit_are_a_sentence(tmp_path: Path):
    write(tmp_path / "updates", batches=entry(strides={"left": [1, 2, 3]}))
    (batch,) = read_updates(tmp_path / "updates")
    with pytest.raises(DataError, match=r"strides \[1, 2, 3\] do not fit its shape \[3, 2\]"):
        batch.update  # noqa: B018


@pytest.mark.parametrize("name", ["x-1.safetensors", "1-x.safetensors", "-.safetensors", "1-2-3.safetensors"])
def test_a_file_that_is_no_piece_is_named(tmp_path: Path, name: str):
    write(tmp_path / "updates")
    (tmp_path / "updates" / name).touch()
    with pytest.raises(DataError, match=f"{name} is no piece of the updates of a run"):
        read_updates(tmp_path / "updates")


@pytest.mark.parametrize("shape", [(1, 1), (24, 1), (1, 24), (3, 2)])
def test_an_update_of_another_shape_is_not_repeated_to_fit(shape: tuple[int, int]):
    model = tiny_model()
    before = model.weight(SITE.name, SITE.layer).clone()
    rows, columns = before.shape
    left = torch.ones(rows if shape[0] == 24 else shape[0], columns if shape[1] == 24 else shape[1])
    with pytest.raises(DataError, match=r"an update of mlp_down\.0+ has the shape .* made for another model"):
        model.apply({SITE: Delta(left=left)})
    assert torch.equal(model.weight(SITE.name, SITE.layer), before)
