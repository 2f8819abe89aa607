"""The unedited weights are the loaded ones: read from the file if it holds them, else kept in memory."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from analysis.stages.base import Observation
from analysis.stages.norms import Norms
from analysis.stages.reference import Reference, UneditedWeights
from editors.models import loading
from editors.models.adapters import LoRA
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.models.stored import checkpoint_files
from editors.models.stored.checkpoint_files import CheckpointFiles
from editors.updates import Site
from pipeline.data.world.shipped_models import SHIPPED
from tests.tiny import FAMILIES, tiny_model

EVERY = pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])
"""Gemma 2 is not loaded in float64."""
SITE = Site("mlp_down", 1)


def saved(family: str, folder: Path, **how: object) -> Path:
    """A tiny checkpoint of float64 weights."""
    model = tiny_model(family)
    model.hf.save_pretrained(folder, **how)
    model.tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, dtype: loading.Precision = "float64") -> Model:
    return Checkpoint(name="tiny", path=str(folder), dtype=dtype, device="cpu").load()


def copied(weights: UneditedWeights) -> set[Site]:
    """Sites that are not read from the file."""
    return set(weights._copies)


def mapped(tensor: torch.Tensor, files: Sequence[Path]) -> bool:
    """Whether the memory of a tensor is one of the files."""
    address, maps = tensor.data_ptr(), Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is mapped")
    for line in maps.read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return line.endswith(tuple(map(str, files)))
    return False


@EVERY
def test_weights_of_every_site_come_from_the_file_bit_for_bit(family: str, tmp_path: Path):
    model = loaded(saved(family, tmp_path))
    weights = UneditedWeights(model)
    assert not copied(weights) and len(weights) == model.depth * len(model.sites)
    for site, weight in weights.items():
        assert torch.equal(weight, model.weight(*site)) and weight.stride() == model.weight(*site).stride()
        model.write(site, 2 * model.weight(*site))
        assert torch.equal(2 * weights[site], model.weight(*site)), "an edit changes the model alone"


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_what_is_read_is_the_file_and_no_copy(family: str, tmp_path: Path):
    weights = UneditedWeights(loaded(saved(family, tmp_path)))
    assert all(mapped(weight, [tmp_path / "model.safetensors"]) for weight in weights.values())
    assert weights[SITE].data_ptr() == weights[SITE].data_ptr()


def test_the_shipped_model_is_read_in_the_precision_of_the_model():
    """Its file is in half precision."""
    folder = SHIPPED / "tiny-gpt2"
    model = loaded(folder, "float32")
    weights, stored = UneditedWeights(model), model.stored(SITE)
    assert not copied(weights) and stored is not None
    assert stored.dtype == torch.float16 and mapped(stored, [folder / "model.safetensors"])
    assert weights[SITE].dtype == torch.float32 and torch.equal(weights[SITE], model.weight(*SITE))


def test_a_checkpoint_in_parts_is_read_from_all_of_them(tmp_path: Path):
    model = loaded(saved("llama", tmp_path, max_shard_size="40KB"))
    parts = list(tmp_path.glob("model-*.safetensors"))
    weights = UneditedWeights(model)
    assert len(parts) > 1 and not copied(weights)
    assert all(mapped(weight, parts) for weight in weights.values())


def test_a_checkpoint_of_the_hub_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved("gpt2", tmp_path)
    kept = {"model.safetensors": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr(checkpoint_files, "cached_file", lambda _id, name, revision: kept[name])
    assert CheckpointFiles("some/model").weights == [tmp_path / "model.safetensors"]


def test_a_file_of_the_bare_model_has_the_same_matrices(tmp_path: Path):
    model = tiny_model()
    model.hf.base_model.save_pretrained(tmp_path)
    bare = Model(model.hf, model.tokenizer, files=[tmp_path / "model.safetensors"])
    assert not copied(UneditedWeights(bare))


@EVERY
def test_matrices_that_were_changed_after_loading_are_copied_and_no_others(family: str, tmp_path: Path):
    model = loaded(saved(family, tmp_path))
    model.write(SITE, 2 * model.weight(*SITE))
    changed = model.weight(*SITE).clone()
    weights = UneditedWeights(model)
    assert copied(weights) == {SITE}
    model.write(SITE, 2 * changed)
    assert torch.equal(weights[SITE], changed)


def test_a_file_that_holds_something_else_is_not_believed(tmp_path: Path):
    saved("gpt2", tmp_path)
    model = tiny_model("llama")
    other = Model(model.hf, model.tokenizer, files=[tmp_path / "model.safetensors"])
    assert copied(UneditedWeights(other)) == set(UneditedWeights(other)) and not copied(
        UneditedWeights(loaded(tmp_path))
    )
    rounded = loaded(tmp_path, "bfloat16")
    assert not copied(UneditedWeights(rounded)), "the file's values, rounded as the model's were"
    rounded.hf.double()
    assert Site("mlp_up", 0) in copied(UneditedWeights(rounded))


def test_a_model_that_was_not_loaded_is_copied():
    model = tiny_model()
    weights = UneditedWeights(model)
    assert copied(weights) == set(weights)
    with pytest.raises(KeyError):
        weights[Site("mlp_gate", 0)]


def test_an_unedited_model_has_ratios_of_exactly_1_and_distances_of_0(tmp_path: Path):
    for model in (loaded(saved("gpt2", tmp_path)), loaded(SHIPPED / "tiny-gpt2", "float32")):
        stage = Norms()
        stage.prepare(model)
        found = stage.measure(model, Observation(count=1, total=1, reference=Reference(model)))
        ratios = [value for key, value in found.items() if "ratio" in key]
        assert len(ratios) > 4 * 6 and set(ratios) == {1.0}
        assert {value for key, value in found.items() if "distance" in key} == {0.0}


def test_an_adapter_around_a_matrix_does_not_hide_it(tmp_path: Path):
    model = loaded(saved("gpt2", tmp_path))
    weights = UneditedWeights(model)
    LoRA().attach(model)
    assert torch.equal(weights[Site("attn_q", 0)], model.weight("attn_q", 0))
