"""The saved state of a training is read as tensors and numbers; code in it does not run."""

import io
import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as shards
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from editors.disk import checksum
from editors.errors import DataError
from pipeline.interventions.training.saved_states import only_tensors
from pipeline.launch import launch
from pipeline.runs.checkpoint_store import _checksum_of
from tests.pipeline.checkpoints.test_resume import Composed, only_run
from tests.pipeline.interventions.test_training import Cut, _cut_after, training

__all__ = ["training"]


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_code_in_the_random_state_of_a_training_does_not_run(
    training: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Even if the checksums fit."""
    config = training("cpt", "training.save_every=2", "steps=4", "stage=[norms]")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        _cut_after(patch, 4)
        launch(config, tmp_path / "cut")
    checkpoint = only_run(tmp_path / "cut") / "state" / "0" / "checkpoint-2"
    torch.save({"python": Evil(tmp_path / "ran")}, checkpoint / "rng_state.pth")
    state = json.loads((checkpoint / "run.json").read_text())
    del state["checksum"]
    state["files"]["checkpoint-2/rng_state.pth"] = checksum(checkpoint / "rng_state.pth")
    (checkpoint / "run.json").write_text(json.dumps({**state, "checksum": _checksum_of(state)}))
    with pytest.raises(DataError, match=r"checkpoint-2 holds more than tensors .*: resume=never"):
        launch(config, tmp_path / "cut")
    assert not (tmp_path / "ran").exists()


def test_code_in_the_index_of_shards_does_not_run(tmp_path: Path):
    (tmp_path / "optimizer_0").mkdir()
    (tmp_path / "optimizer_0" / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(DataError, match="the index of its shards names"), only_tensors(tmp_path):
        pytest.fail("it was read")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os.system", "pickle", "FileSystemWriter", "Path"])
def test_the_index_names_nothing_but_its_records(tmp_path: Path, name: str):
    (tmp_path / "optimizer_0").mkdir()
    content = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(text)]) + text.encode()
        for text in ("torch.distributed.checkpoint.filesystem", name)
    )
    (tmp_path / "optimizer_0" / ".metadata").write_bytes(content + b"\x93.")
    with pytest.raises(DataError, match="the index of its shards names"), only_tensors(tmp_path):
        pytest.fail("it was read")


def test_shards_of_an_optimiser_are_read_and_code_in_their_numbers_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.25)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {"optimizer": get_optimizer_state_dict(layer, optimiser)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about a single process
        shards.save(state, storage_writer=shards.FileSystemWriter(tmp_path / "optimizer_0"), no_dist=True)
        before = state["optimizer"]["state"]["weight"]["exp_avg"].clone()
        state["optimizer"]["state"]["weight"]["exp_avg"].zero_()
        with only_tensors(tmp_path):
            shards.load(state, storage_reader=shards.FileSystemReader(tmp_path / "optimizer_0"), no_dist=True)
    assert torch.equal(state["optimizer"]["state"]["weight"]["exp_avg"], before)
    evil = io.BytesIO()
    torch.save(Evil(tmp_path / "ran"), evil)
    evil.seek(0)
    with pytest.raises(DataError, match="more than tensors"), only_tensors(tmp_path):
        torch.load(evil, weights_only=False)  # as the reader of shards does
    assert not (tmp_path / "ran").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
