"""Folders of models with every fault that transformers loads without a word, or ends at with a traceback."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from editors.errors import ConfigError, ModelError
from editors.models import memory
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.models.modules import four_bits
from tests.tiny import FAMILIES, TEXT, save_tiny, tiny_model

MATRIX = "transformer.h.1.mlp.c_proj.weight"
EVERY = pytest.mark.parametrize("family", FAMILIES)

Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("gpt2", tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of a tiny GPT-2 that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def load(folder: Path, **options: object) -> Model:
    return Checkpoint(name="tiny", path=str(folder), device="cpu", **options).load()  # pyright: ignore[reportArgumentType]


def rewrite(folder: Path, change: Change) -> None:
    path = folder / "model.safetensors"
    save_file(dict(change(load_file(path))), path, {"format": "pt"})


def settle(folder: Path, file: str = "config.json", /, **entries: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(ModelError) as error:
        load(folder)
    for part in parts:
        assert part in str(error.value)


def replaced(name: str, value: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: tensors | {name: value(tensors[name])}


def with_entry(value: float) -> Change:
    def changed(matrix: Tensor) -> Tensor:
        matrix[3, 5] = value
        return matrix

    return replaced(MATRIX, changed)


# --- weights -----------------------------------------------------------------------------------------


@EVERY
def test_a_whole_checkpoint_gives_the_saved_parameters(family: str, tmp_path: Path):
    expected = tiny_model(family, double=False)
    model = load(save_tiny(family, tmp_path))
    here = dict(model.hf.named_parameters())
    assert all(torch.equal(here[name], value) for name, value in expected.hf.named_parameters())
    ids, mask = model.encode(TEXT)
    assert torch.equal(model.hidden(ids, mask), expected.hidden(ids, mask))


@EVERY
def test_every_parameter_that_the_file_lacks_is_named(family: str, tmp_path: Path):
    save_tiny(family, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    for name in [n for n in sorted(names) if ".1." in n or (".0." not in n and ".2." not in n)][::3]:
        whole = load_file(tmp_path / "model.safetensors")
        save_file({n: t for n, t in whole.items() if n != name}, tmp_path / "model.safetensors")
        refused(tmp_path, "missing: ", name.replace("embed_out", "lm_head"))
        save_file(whole, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {n: v for n, v in t.items() if n != MATRIX}, f"missing: {MATRIX}"),
        (lambda t: t | {"score.weight": torch.ones(2, 32)}, "unexpected: score.weight"),
        (replaced(MATRIX, lambda m: m[:7].clone()), f"of another shape: {MATRIX} [7, 32] for [128, 32]"),
        (replaced(MATRIX, lambda m: m.T.contiguous()), f"of another shape: {MATRIX} [32, 128] for [128, 32]"),
        (replaced(MATRIX, lambda m: (9 * m).to(torch.int8)), f"not floating-point: {MATRIX} (I8)"),
        (replaced(MATRIX, lambda m: m.to(torch.float8_e4m3fn)), f"not floating-point: {MATRIX} (F8_E4M3)"),
        (replaced(MATRIX, lambda m: m > 0), f"not floating-point: {MATRIX} (BOOL)"),
        (with_entry(float("nan")), f"not finite: {MATRIX}"),
        (with_entry(float("-inf")), f"not finite: {MATRIX}"),
        (replaced(MATRIX, torch.zeros_like), f"zero throughout: {MATRIX}"),
        (replaced("transformer.ln_f.weight", torch.zeros_like), "zero throughout: transformer.ln_f.weight"),
        (
            lambda t: {n.replace("ln_f.weight", "ln_f.gamma"): v for n, v in t.items()},
            "transformer.ln_f.gamma",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_named(
    folder: Path, change: Change, sentence: str
):
    rewrite(folder, change)
    refused(folder, sentence)


def test_a_quantized_matrix_under_an_older_name_is_refused(tmp_path: Path):
    save_tiny("neox", tmp_path)
    rewrite(tmp_path, replaced("embed_out.weight", lambda m: (9 * m).to(torch.int8)))
    refused(tmp_path, "not floating-point: embed_out.weight (I8)")


@pytest.mark.parametrize(
    ("family", "name", "more"),
    [
        ("gpt2", MATRIX, MATRIX.removeprefix("transformer.")),
        ("llama", "model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("neox", "embed_out.weight", "lm_head.weight"),
    ],
)
def test_two_tensors_of_one_parameter_are_refused(family: str, name: str, more: str, tmp_path: Path):
    save_tiny(family, tmp_path)
    here = name if name in load_file(tmp_path / "model.safetensors") else more
    rewrite(tmp_path, lambda t: t | {name: t[here].clone(), more: t[here] + 1})
    refused(tmp_path, f"of one parameter under two names: {' and '.join(sorted([name, more]))}")


def test_all_faults_of_weights_are_reported_at_once(folder: Path):
    rewrite(folder, with_entry(float("nan")))
    rewrite(folder, replaced("transformer.h.2.mlp.c_fc.weight", torch.zeros_like))
    rewrite(folder, lambda t: {n: v for n, v in t.items() if n != "transformer.h.0.ln_1.bias"})
    refused(folder, f"not finite: {MATRIX}", "transformer.h.2.mlp.c_fc.weight", "transformer.h.0.ln_1.bias")


@pytest.mark.parametrize(
    ("depth", "name"), [(3, "unexpected: transformer.h.3"), (5, "missing: transformer.h.4")]
)
def test_a_depth_that_is_not_that_of_the_file_is_refused(folder: Path, depth: int, name: str):
    settle(folder, n_layer=depth)
    refused(folder, name)


def test_a_float16_model_that_overflows_is_refused(folder: Path):
    rewrite(folder, replaced(MATRIX, lambda m: 1e7 * m))
    assert load(folder).depth == 4
    with pytest.raises(ModelError, match=r"not finite: .*c_proj\.weight \(float16\)"):
        load(folder, dtype="float16")


@EVERY
def test_a_missing_head_is_refused_unless_it_is_the_embedding(family: str, tmp_path: Path):
    save_tiny(family, tmp_path)
    model = tiny_model(family, double=False)
    model.hf.base_model.save_pretrained(tmp_path)
    settle(tmp_path, architectures=None)
    if model.hf.config.tie_word_embeddings:
        assert torch.equal(load(tmp_path).hf.lm_head.weight, model.hf.get_input_embeddings().weight)
    else:
        refused(tmp_path, "missing: ", ".weight")


def test_a_head_in_the_file_has_to_be_the_embedding_that_it_is_tied_to(folder: Path, saved: Path):
    embedding = "transformer.wte.weight"
    rewrite(folder, lambda t: t | {"lm_head.weight": t[embedding].clone()})
    model = load(folder)
    assert model.digest == load(saved).digest
    assert model.hf.lm_head.weight is model.hf.get_input_embeddings().weight
    rewrite(folder, lambda t: t | {"lm_head.weight": t[embedding] + 1})
    refused(folder, "to be tied to the embedding, and different from it: lm_head.weight")


def test_a_matrix_that_is_zero_on_purpose_is_loaded_if_asked_for(folder: Path):
    rewrite(folder, replaced(MATRIX, torch.zeros_like))
    with pytest.raises(ModelError, match=rf"zero throughout: {MATRIX}; .* \+model\.allow_zero=true$"):
        load(folder)
    assert not load(folder, allow_zero=True).hf.get_parameter(MATRIX).any()


@pytest.mark.parametrize(
    ("family", "buffers"),
    [
        ("gpt2", ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")),
        ("gptj", ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")),
        ("neox", ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias")),
        ("neox", ("gpt_neox.layers.0.attention.rotary_emb.inv_freq",)),
        ("llama", ("model.layers.0.self_attn.rotary_emb.inv_freq",)),
    ],
)
def test_constants_that_old_versions_saved_are_no_weights(
    family: str, buffers: tuple[str, ...], tmp_path: Path
):
    save_tiny(family, tmp_path)
    rewrite(tmp_path, lambda t: t | {name: torch.ones(4, dtype=torch.uint8) for name in buffers})
    assert load(tmp_path).digest == tiny_model(family, double=False).digest


# --- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
    ],
)
def test_another_content_in_place_of_a_file_is_named(folder: Path, name: str, content: bytes, sentence: str):
    (folder / name).write_bytes(content)
    refused(folder, str(folder / name), sentence)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named_once(folder: Path, name: str, encoding: str):
    path = folder / name
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value).startswith(f"{path} begins with a byte order mark")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_file_of_weights_is_named(folder: Path, keep: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, f"{path} is truncated")


def in_shards(folder: Path) -> dict[str, str]:
    """Split the weights into two files; returns the map of the index."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    places = {name: f"part-{2 * i // len(names)}.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({n: whole[n] for n in names if places[n] == shard}, folder / shard, {"format": "pt"})
    return places


def index(folder: Path, places: object) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_an_index_is_believed_only_as_far_as_its_files_go(folder: Path, saved: Path):
    places = in_shards(folder)
    index(folder, places)
    assert load(folder).digest == load(saved).digest
    index(folder, places | {"more": "part-7.safetensors"})
    refused(folder, "names part-7.safetensors, but there is no such file")
    index(folder, places | {"more": f"../{saved.name}/model.safetensors"})
    refused(folder, "outside of its folder")
    index(folder, places | {"more": str(saved / "model.safetensors")})
    refused(folder, "outside of its folder")
    for nonsense in ([], {"a": 1}, None):
        index(folder, nonsense)
        refused(folder, "has no weight_map")
    index(folder, places)
    more = load_file(folder / "part-1.safetensors") | {MATRIX: torch.ones(128, 32)}
    for shard in ("part-0.safetensors", "part-1.safetensors"):
        save_file(load_file(folder / shard) | {MATRIX: more[MATRIX]}, folder / shard, {"format": "pt"})
    refused(folder, f"several files of {folder} hold {MATRIX}")


def test_a_file_of_all_weights_beside_shards_is_refused(folder: Path, saved: Path):
    index(folder, {MATRIX: "model.safetensors", "more": "part-7.safetensors"})
    assert load(folder).digest == load(saved).digest  # nothing but the file is there
    places = in_shards(folder)
    index(folder, places)
    shutil.copy(saved / "model.safetensors", folder)
    refused(folder, "holds both model.safetensors and model.safetensors.index.json with part-0.safetensors")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pytorch_model.bin", "pickles"), ("model.gguf", "model.gguf="), ("other.safetensors", "holds no")],
)
def test_weights_of_another_kind_are_not_read(folder: Path, name: str, kind: str):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, kind, "no model.safetensors")


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_in_the_folder_is_refused(folder: Path, alone: bool):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gpt2"}))
    if alone:
        (folder / "config.json").unlink()
    refused(folder, "holds an adapter", "merge_and_unload")


def test_a_checkpoint_of_a_distributed_training_is_refused(folder: Path):
    shutil.copy(folder / "model.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")
    refused(folder, "distributed training")


# --- the configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "null", "[" * 100_000, "\0"])
def test_a_configuration_that_is_no_object_is_named(folder: Path, content: str):
    (folder / "config.json").write_text(content)
    refused(folder, f"{folder / 'config.json'}")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"n_embd": "32"}, "n_embd='32' has to be a positive whole number"),
        ({"n_embd": -32}, "n_embd=-32"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"n_layer": 10**9}, "n_layer=1000000000 has to be at most 10,000"),
        ({"num_labels": 10**9}, "num_labels=1000000000 has to be at most 10,000"),
        ({"n_head": 4.0}, "n_head=4.0"),
        ({"n_positions": True}, "n_positions=True"),
        ({"vocab_size": None}, "vocab_size=None"),
        ({"n_head": 5}, "divisible by num_heads"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon=-1e-05 has to be a positive finite number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta=0 has to be a positive finite number"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon=True has to be a positive finite number"),
        ({"rms_norm_eps": 10**400}, "has to be a positive finite number"),
        ({"rope_parameters": {"factor": "8"}}, "rope_parameters.factor='8' has to be a positive finite"),
        ({"rope_scaling": {"type": "linear", "factor": -2.0}}, "rope_scaling.factor=-2.0 has to be a pos"),
        ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor=1.5 has to be a number"),
        ({"rotary_pct": -0.5}, "rotary_pct=-0.5 has to be a number above 0 and at most 1"),
        ({"layer_norm_epsilon": float("nan")}, "is not valid JSON (NaN is no number of JSON)"),
        ({"n_layer": 9000}, "asks for 9000 blocks, but there are 52 tensors"),
        ({"model_type": "bert"}, "model_type 'bert' is not supported; supported are gemma2"),
        ({"model_type": "t5"}, "model_type 't5' is not supported"),
        ({"model_type": None}, "there is no model_type"),
        ({"model_type": []}, "model_type [] is not supported"),
        ({"is_encoder_decoder": True}, "only models of a decoder alone"),
        ({"add_cross_attention": True}, "missing: transformer.h.0.crossattention"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            "dequantize it first",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "dequantize it first"),
        ({"quantization_config": {"quant_method": "fp8"}}, "dequantize it first"),
        ({"compression_config": {"format": "pack-quantized"}}, "dequantize it first"),
        ({"transformers_weights": "other.safetensors"}, "names a file of weights of its own"),
        ({"attn_implementation": "kernels-community/flash-attn2"}, "would be fetched from the hub"),
        ({"_attn_implementation": "kernels-community/flash-attn2"}, "would be fetched from the hub"),
        ({"activation_function": "nope"}, "there is no entry 'nope'"),
        ({"dtype": "nope"}, "has no attribute 'nope'"),
        ({"bos_token_id": "x"}, "field 'bos_token_id'"),
        ({"vocab_size": 100}, "but the embedding has 100 rows"),
    ],
)
def test_a_configuration_of_no_model_that_can_be_edited_is_refused(
    folder: Path, entries: dict[str, object], sentence: str
):
    settle(folder, **entries)
    refused(folder, sentence)


@pytest.mark.parametrize("key", ["layer_norm_epsilon", "rope_theta"])
def test_a_number_beyond_all_floats_is_refused(folder: Path, key: str):
    settle(folder, **{key: 12345})
    path = folder / "config.json"
    path.write_text(path.read_text().replace("12345", "1e400"))
    refused(folder, f"{key}=inf has to be a positive finite number")


def test_an_entry_of_a_wrong_type_is_no_traceback(tmp_path: Path):
    save_tiny("llama", tmp_path)
    rotary = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": None}
    settle(tmp_path, rope_parameters=rotary)
    refused(tmp_path, "the configuration in")
    settle(tmp_path, rope_parameters=rotary | {"partial_rotary_factor": 1.0})
    assert load(tmp_path).depth == 4
    settle(tmp_path, pad_token_id=10**6)
    refused(tmp_path, "the configuration in", "cannot be read: Padding_idx must be within num_embeddings")
    settle(tmp_path, pad_token_id=0, text_config={"hidden_size": 32})
    refused(tmp_path, "the configuration in", "cannot be read: ")


def test_all_problems_of_the_files_are_reported_at_once(folder: Path):
    settle(folder, n_embd=-1, n_head="4", model_type="bert")
    (folder / "tokenizer.json").write_text("<html>")
    refused(folder, "n_embd=-1", "n_head='4'", "'bert'", "tokenizer.json is a web page")


def test_sizes_beyond_the_memory_are_refused_before_anything_is_allocated(folder: Path):
    settle(folder, n_embd=4 * 10**6)
    with pytest.raises(ConfigError, match=r"model=tiny in float32 needs [\d,.]+ GiB, but cpu has"):
        load(folder)
    settle(folder, n_embd=32, n_positions=10**12)
    with pytest.raises(ConfigError, match=r"needs [\d,.]+ GiB"):
        load(folder)


@EVERY
def test_the_estimate_of_the_weights_is_their_size(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_BYTES_OF_MODULES", 0)
    hf = tiny_model(family, double=False).hf
    tensors = [*hf.parameters(), *hf.buffers()]
    assert memory.weight_bytes(hf.config, torch.float32) == sum(tensor.nbytes for tensor in tensors)


def test_other_bits_several_devices_and_a_missing_package_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ConfigError, match=r"model\.bits=8"):
        load(folder, bits=8)
    with pytest.raises(ConfigError, match=r"model\.bits=4 .* model\.device_map=auto"):
        load(folder, bits=4, device_map="auto")
    monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        load(folder, bits=4)


# --- code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["gpt2", "mine"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_never_run(
    folder: Path, name: str, model_type: str, monkeypatch: pytest.MonkeyPatch
):
    ran = folder.parent / "ran"
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    classes = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": ["mine.T", None]}
    settle(folder, name, auto_map=classes)
    settle(folder, model_type=model_type)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to transformers' question
    refused(folder, f"{folder / name}: auto_map names code of the checkpoint, which is never run")
    assert not ran.exists()


# --- tokenizers --------------------------------------------------------------------------------------


def test_a_tokenizer_without_an_end_of_text_token_is_refused(folder: Path):
    settle(folder, "tokenizer_config.json", eos_token=None)
    refused(folder, "has no end-of-text token")


def test_a_length_that_is_no_number_is_refused(folder: Path):
    settle(folder, "tokenizer_config.json", model_max_length="512")
    refused(folder, "has model_max_length='512': make it a number")


def test_the_form_of_the_answer_is_not_the_checkpoints_to_choose(folder: Path):
    settle(folder, return_dict=False)
    assert load(folder).hf(torch.tensor([[1]])).logits.shape[:2] == (1, 1)


def test_a_tokenizer_smaller_than_the_embedding_is_fine_and_a_larger_one_refused(folder: Path):
    model = tiny_model(double=False)
    free = model.hf.config.vocab_size - len(model.tokenizer)
    model.tokenizer.add_tokens([f"<{i}>" for i in range(free)])
    model.tokenizer.save_pretrained(folder)
    assert load(folder).tokenizer("<0>")["input_ids"]
    model.tokenizer.add_tokens(["<more>"])
    model.tokenizer.save_pretrained(folder)
    refused(folder, "a token with the id 384, but the embedding has 384 rows")


def test_a_tokenizer_with_random_merges_is_refused(folder: Path):
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    settle(folder, "tokenizer.json", model=bpe | {"dropout": 0.5})
    refused(folder, "drops merges at random (model.dropout=0.5", "set model.dropout to null")
    settle(folder, "tokenizer.json", model=bpe | {"dropout": 0.0})
    assert load(folder).depth == 4


@pytest.mark.parametrize("content", ["{}", "[1]", '{"version": "1.0"', "nonsense"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_broken_settings_of_the_tokenizer_are_named(folder: Path, name: str, content: str):
    if content == "{}" and name != "tokenizer.json":
        return  # these may be empty
    (folder / name).write_text(content)
    refused(folder, name.split("_")[0].removesuffix(".json"))


# --- options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", "", "cpu0"])
def test_a_device_that_there_is_not_is_named(saved: Path, device: str):
    with pytest.raises(ConfigError, match=rf"model\.device={device} cannot be used"):
        Checkpoint(name="tiny", path=str(saved), device=device).load()


@pytest.mark.parametrize("dtype", ["int8", "auto", "nope"])
def test_a_precision_that_there_is_not_is_named(saved: Path, dtype: str):
    with pytest.raises(ConfigError, match=rf"model\.dtype={dtype} has to be one of float64"):
        checkpoint = Checkpoint(name="tiny", path=str(saved), device="cpu")
        object.__setattr__(checkpoint, "dtype", dtype)  # as from a caller without type checks
        checkpoint.load()


def test_a_precision_that_the_attention_does_not_compute_in_is_named(tmp_path: Path):
    """What follows padding would be NaN. GPT-J has eager attention too, and adds its masks in float64."""
    folder = save_tiny("gemma2", tmp_path)
    with pytest.raises(ConfigError, match=r"model\.dtype=float64, .* of tiny .*: set model\.dtype=float32"):
        load(folder, dtype="float64")
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load(save_tiny("gptj", tmp_path / "gptj"), dtype="float64").dtype == torch.float64


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("", "is empty"), ("/nowhere", "no folder of that name"), ("a b/c/d", "no folder of that name")],
)
def test_a_path_that_is_no_model_is_named(path: str, sentence: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=sentence):
        Checkpoint(name="tiny", path=path, device="cpu").load()


def test_the_home_folder_of_a_path_is_found(saved: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load(Path("~") / saved.name).depth == 4


def test_a_file_instead_of_its_folder_is_named(saved: Path):
    with pytest.raises(ModelError, match="is a file: name the folder"):
        load(saved / "model.safetensors")
