"""A model that accelerate spread over devices; here the only one is the CPU."""

from pathlib import Path

import pytest
import torch

from editors.errors import ModelError
from editors.models.loading import Checkpoint
from editors.models.model import Model
from tests.editors.cases import FACTS
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("gpt2", tmp_path_factory.mktemp("model"))


def load(path: Path, device_map: str | dict | None) -> Model:
    return Checkpoint(name="random", path=str(path), device="cpu", device_map=device_map).load()


@pytest.mark.parametrize("device_map", ["cpu", {"transformer": "cpu", "lm_head": "cpu"}])
def test_a_model_with_a_device_map_computes_the_same(path: Path, device_map: str | dict):
    plain, spread = load(path, None), load(path, device_map)
    ids, mask = plain.encode([fact.statement for fact in FACTS])
    assert torch.equal(plain.hidden(ids, mask), spread.hidden(ids, mask))


def test_weights_that_would_be_left_on_the_disk_are_refused(path: Path, tmp_path: Path):
    halves = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h": "disk"}
    halves |= {"transformer.ln_f": "cpu", "lm_head": "cpu"}
    with pytest.raises(ModelError, match=r"device_map=.* cannot be edited"):
        load(path, halves)
