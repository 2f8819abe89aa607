"""Models of three published shapes with random weights, made on the device, one at a time."""

import copy
import gc
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from editors.models.model import Model

SHAPES: Mapping[str, tuple[PretrainedConfig, torch.dtype]] = MappingProxyType(
    {
        "gpt2-xl": (GPT2Config(n_embd=1600, n_layer=48, n_head=25), torch.float32),
        "llama3-8b": (
            LlamaConfig(
                vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
            ),
            torch.bfloat16,
        ),
        "qwen2.5-7b": (
            Qwen2Config(
                vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=32768,
            ),
            torch.bfloat16,
        ),
    }
)  # fmt: skip
"""By the name of the model in `conf/model`, whose published values editors have; and the precision."""
_NARROW = {
    "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 384, "max_position_embeddings": 256,
    "intermediate_size": 48, "num_key_value_heads": 2,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    facts: int
    """Facts in a batch."""
    steps: int
    """Evaluations of the loss of a target, and passes of fine-tuning."""
    stop: int
    """Evaluations after which the stop rule ends an optimisation."""
    tokens: int
    """Tokens of the second moments."""
    families: int
    """Families whose editors are compared with those on the CPU."""
    side: int
    """Rows and columns of the product that the utilisation is a share of."""
    narrow: bool
    """Whether models have their depth, but a width of 32."""
    stages: tuple[str, ...] = ()
    """Options of the stages."""


FULL = Scale(facts=100, steps=25, stop=5, tokens=100_000, families=9, side=8192, narrow=False)
SMALL = Scale(
    facts=3, steps=3, stop=2, tokens=500, families=1, side=64, narrow=True,
    stages=(
        "text.tokens=300", "stage.functional.texts.tokens=60", "stage.downstream.limit=1",
        "stage.probes.samples=40", "stage.probes.pairs=adjacent",
        "+stage.tracing.kinds=[mlp]", "+stage.tracing.classes=[subject_last]",
        "stage.generation.prompts=1", "stage.generation.length=24", "stage.generation_match.tokens=2",
        "stage.generation_match.facts=1", "stage.tracing.samples=1", "stage.tracing.facts=1",
        "stage.efficacy.generated=1",
    ),
)  # fmt: skip
"""On a GPU, and everywhere else."""


def made(name: str, device: torch.device, tokenizer: PreTrainedTokenizerBase, *, narrow: bool) -> Model:
    """The model of a shape; the weights are drawn on the device."""
    config, dtype = SHAPES[name]
    config = copy.deepcopy(config)
    config.bos_token_id = config.eos_token_id = 0  # as in the tokenizer
    if narrow:
        for key, value in _NARROW.items():
            if hasattr(config, key):
                setattr(config, key, value)
        dtype = torch.float32
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return Model(hf, tokenizer, name=name)


def free_device() -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
