"""What saving a state costs at the width of a 7B model, beside writing everything each time."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from editors.models.model import Model
from editors.updates import Site
from pipeline.checkpoints.edits import EditCheckpoint
from pipeline.runs.checkpoint_store import States
from tests.benchmarks.measure import Row, alternate
from tests.benchmarks.workbench import Workbench

SITE = Site("mlp_down", 1)
BATCH, BATCHES = 100, 10
WIDTH, INNER = 4096, 11008


class Remembering:
    """As an editor that remembers the keys of ten batches of 100 facts at one block."""

    def __init__(self) -> None:
        self.keys = [torch.rand(INNER, BATCH) for _ in range(BATCHES)]

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        return {"keys": torch.cat(self.keys[since // BATCH :], dim=1)}


def state_7b_width(bench: Workbench) -> Row:
    """The tenth state of a sequence of 100 edits each: one edited matrix of two blocks, and the new keys."""
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=32,
        vocab_size=1000, tie_word_embeddings=False,
    )  # fmt: skip
    model = Model(LlamaForCausalLM(config), bench.model.tokenizer, name="7B-width")
    editor = Remembering()
    folder = Path(tempfile.mkdtemp(prefix="normscope-bench-"))
    edits, metrics = BATCH * BATCHES, folder / "metrics.jsonl"
    metrics.touch()

    def fast() -> None:
        edit_checkpoint = EditCheckpoint(folder / "state" / "0")
        edit_checkpoint._saved = edits - BATCH
        edit_checkpoint.remember(editor, edits)  # pyright: ignore[reportArgumentType]
        checkpoint = edit_checkpoint.write(model, [SITE], edits)
        told = {"last": {}, "seconds": 0.0, "state": {}}
        States(folder, {}).complete(checkpoint, metrics, told, edit_checkpoint.pieces)

    def plain() -> None:
        tensors = {name: value.contiguous() for name, value in model.hf.state_dict().items()}
        save_file(tensors | editor.state_dict(), folder / "whole.safetensors")

    try:
        row = alternate("state_7b_width", fast=fast, plain=plain, note="", runs=1)
        whole = (folder / "whole.safetensors").stat().st_size
        ours = sum(path.stat().st_size for path in (folder / "state").rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    sizes = f"{ours / 2**20:.0f} of {whole / 2**20:.0f} MiB, with checksums"
    return row | {"note": f"one of 2 blocks edited, keys of 100 of 1,000 edits: {sizes}"}
