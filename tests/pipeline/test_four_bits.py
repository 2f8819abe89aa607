"""Runs of `model.bits=4`: they resume to the bit, are exported whole, replayed, and refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

import normscope as ns
from editors.errors import ConfigError
from pipeline.commands import export
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved
from pipeline.launch import launch
from tests.pipeline.checkpoints.test_resume import Cut, at_row, cut

pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")

Composed = Callable[..., DictConfig]
KEEPING = (
    "model.bits=4", "model.dtype=bfloat16", "stage=[norms,efficacy]", "edits=4", "regularizer=[history]",
    "intervention.keep_updates=true", "intervention.save_every=2", "keep_weights=true",
)  # fmt: skip
EDITED = {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 1)}


def only_run(root: Path, name: str = "test") -> Path:
    (folder,) = (root / name).glob("*-*")
    return folder


def numbers(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


@pytest.fixture
def run(composed: Composed, tmp_path: Path) -> Path:
    launch(composed(*KEEPING), tmp_path)
    return only_run(tmp_path)


def test_an_interrupted_run_ends_with_the_same_bits(
    run: Path, composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        at_row(patch, 4, cut)
        launch(composed(*KEEPING), tmp_path / "cut")
    launch(composed(*KEEPING), tmp_path / "cut")
    resumed = only_run(tmp_path / "cut")
    assert numbers(resumed) == numbers(run)
    whole, again = (load_file(folder / "weights.safetensors") for folder in (run, resumed))
    assert set(whole) == EDITED == set(again)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_the_exported_model_has_the_edits_and_all_else_as_it_was(run: Path, checkpoint: Path, tmp_path: Path):
    """The card says in what the edits were computed; kept updates lead to the same matrices."""
    weights = load_file(run / "weights.safetensors")
    (out,) = [export.export(run, tmp_path / "out")]
    exported, base = load_file(out / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert set(exported) == set(base)
    for name, value in exported.items():
        assert torch.equal(value, weights[name] if name in EDITED else base[name].to(value.dtype))
    assert "unedited matrices: as in the base model" in (out / "README.md").read_text()
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    (run / "weights.safetensors").unlink()
    again = load_file(export.export(run, tmp_path / "again") / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in exported.items())


def test_its_updates_are_replayed_on_the_same_model_alone(run: Path, composed: Composed, tmp_path: Path):
    replay = ("intervention=replay", f"intervention.source={run}", "stage=[norms]", "name=again")
    launch(composed("model.bits=4", "model.dtype=bfloat16", *replay), tmp_path)
    key = "norm/frobenius/mlp_down.01"
    assert numbers(only_run(tmp_path, "again"))[-1][key] == numbers(run)[-1][key]
    with pytest.raises(ConfigError, match=r"model\.bits=None, but .* model\.bits=4"):
        launch(composed("model.dtype=bfloat16", *replay), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"mlp_down\.02 .* is in 4 bits"):
        spread = ("intervention/control=spread", "model.bits=4", "model.dtype=bfloat16")
        launch(composed(*replay, *spread), tmp_path / "spread")


@pytest.mark.parametrize("intervention", ["fft", "lora", "cpt", "quantization", "edit_then"])
def test_what_may_change_any_matrix_is_refused_before_the_model_is_loaded(
    intervention: str, composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("editors.models.loading.Checkpoint.load", None)
    config = composed("model.bits=4", "training=tiny", f"intervention={intervention}", "stage=[norms]")
    with pytest.raises(ConfigError, match=rf"model\.bits=4 .* intervention={config.intervention.name} "):
        launch(config, tmp_path)


def test_bits_belong_to_the_name_of_a_run_and_nothing_else_does(composed: Composed):
    """Runs of before the key keep their names."""
    plain, four = (resolved(composed(f"model.bits={bits}")) for bits in ("null", 4))
    before = {**plain, "model": {key: value for key, value in plain["model"].items() if key != "bits"}}
    assert fingerprint(before) == fingerprint(plain) != fingerprint(four)


def test_python_loads_four_bits_and_edits_the_named_matrices():
    model = ns.load("tiny-llama", bits=4, edited=["mlp_down.00"])
    fact = ns.facts("world")[:1]
    result = ns.edit(model, fact, "rome", layers=0)
    assert list(result.took) == [True]
    with pytest.raises(ConfigError, match=r"mlp_down\.01 .* edited=\['mlp_down\.01'\]"):
        ns.edit(model, fact, "rome", layers=1)
    with pytest.raises(ConfigError, match="edited=\\['mlp_down'\\]"):
        ns.load("tiny-llama", bits=4, edited=["mlp_down"])
    with pytest.raises(ConfigError, match="names mlp_dow, but the blocks of tiny-llama have"):
        ns.load("tiny-llama", bits=4, edited="mlp_dow.00")
    with pytest.raises(ConfigError, match=r"\[9\] but tiny-llama has 4 blocks"):
        ns.load("tiny-llama", bits=4, edited=["mlp_down.09"])
    with pytest.raises(ConfigError, match="is for bits=4"):
        ns.load("tiny-llama", edited=["mlp_down.00"])
