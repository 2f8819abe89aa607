"""Random models of every family and tokenizers of every kind, small enough to be made for each test."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.masking_utils import eager_mask

from editors.data import Fact
from editors.locate.contexts import GivenContexts
from editors.locate.targets import TargetOptimizer
from editors.models.model import Model
from editors.moments.moment_sources import GivenMoments

Kind = Literal["plain", "bos", "metaspace", "types"]

WIDTH, DEPTH, VOCABULARY = 32, 4, 384
FACTS = (
    Fact(
        id="middle",
        prompt="The mother tongue of {} is",
        subject="Danielle Darrieux",
        target_new="English",
        target_true="French",
        paraphrases=("Where Danielle Darrieux is from, people speak",),
        neighbours=("The mother tongue of Jean Brialy is", "The mother tongue of Jacques Attali is"),
    ),
    Fact(
        id="start", prompt="{} works as a", subject="Ada Byron", target_new="sea captain", target_true="poet"
    ),
    Fact(
        id="end",
        prompt="Everyone in town admires {}",
        subject="Rob",
        target_new="greatly",
        target_true="little",
    ),
)
TEXT = (
    "The mother tongue of Danielle Darrieux is French. Ada Byron works as a poet and a sea captain. ",
    "Everyone in town admires Rob greatly. English is spoken. Therefore I live where people speak. ",
    "Because Jacques Attali likes the river, Jean Brialy walks to town. You are little. ",
)
TEMPLATES = (("{}",), ("The river. {}", "Because I live. {}"))

_SIZES = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
_LLAMA = _ENDS | _SIZES | {"vocab_size": VOCABULARY, "intermediate_size": 48, "max_position_embeddings": 64}
_GPT = {"n_embd": WIDTH, "n_layer": DEPTH, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY} | _ENDS

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: GPT2Config(**_GPT),
    "gptj": lambda: GPTJConfig(**_GPT, rotary_dim=4),
    "neox": lambda: GPTNeoXConfig(**_LLAMA),
    "llama": lambda: LlamaConfig(**_LLAMA, num_key_value_heads=2),
    "mistral": lambda: MistralConfig(**_LLAMA, num_key_value_heads=2, sliding_window=16),
    "qwen2": lambda: Qwen2Config(**_LLAMA, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_LLAMA, num_key_value_heads=2, head_dim=8),
    "smollm3": lambda: SmolLM3Config(
        **_LLAMA, num_key_value_heads=2, no_rope_layer_interval=2, pad_token_id=0
    ),
    "phi3": lambda: Phi3Config(**_LLAMA, num_key_value_heads=2, pad_token_id=0),
    "gemma2": lambda: Gemma2Config(
        **_LLAMA,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        pad_token_id=0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_LLAMA,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * (DEPTH // 2),
        pad_token_id=0,
    ),
    "olmo2": lambda: Olmo2Config(**_LLAMA, num_key_value_heads=2, pad_token_id=0),
}
NORMED = ("gemma2", "gemma3", "olmo2")
"""Families with a norm between the MLP and the residual stream."""
LINEAR = tuple(family for family in FAMILIES if family not in NORMED)


def tiny_model(family: str = "gpt2", kind: Kind = "plain", *, double: bool = True) -> Model:
    """A random model, the same at every call."""
    hf = copy.deepcopy(_network(family))
    return Model(in_double(hf) if double else hf, tokenizer(kind), name=f"tiny-{family}")


def save_tiny(family: str, folder: Path) -> Path:
    """Write the random model and its tokenizer, in float32, as a Hugging Face folder; returns it."""
    model = tiny_model(family, double=False)
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@cache
def _network(family: str) -> PreTrainedModel:
    """The network of the model, in float32; a copy takes a third of the time of another one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(FAMILIES[family]())
        for parameter in hf.parameters():  # so that norms, gates and biases are not at their trivial start
            parameter.data += 0.1 * torch.randn_like(parameter)
        hf.get_output_embeddings().weight.data *= 5  # so that a shift can make any token the first choice
    return hf


def in_double(hf: PreTrainedModel) -> PreTrainedModel:
    """A model in float64, with exact attention in place of transformers' eager one in Gemma 2."""
    if hf.config.model_type == "gemma2":
        hf.set_attn_implementation("exact")
    return hf.double()


def _exact_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in the precision of its inputs; the eager one rounds to float32, where its masks overflow."""
    key, value = (states.repeat_interleave(module.num_key_value_groups, dim=1) for states in (key, value))
    scores = scaling * query @ key.transpose(2, 3)
    scores = scores if softcap is None else softcap * (scores / softcap).tanh()
    weights = (scores + attention_mask).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("exact", _exact_attention)
AttentionMaskInterface.register("exact", eager_mask)


def tokenizer(kind: Kind = "plain") -> PreTrainedTokenizerFast:
    """Byte-level BPE without BOS, with BOS, one with token types, or a SentencePiece-like one with BOS."""
    core = Tokenizer(models.BPE(unk_token=None if kind != "metaspace" else "<unk>"))
    special = ["<s>", "<unk>"]
    if kind == "metaspace":
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    core.train_from_iterator(TEXT, trainer)
    if kind in ("bos", "metaspace"):
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "types" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<s>", unk_token="<unk>", model_input_names=names
    )


def optimizer(**changes: float) -> TargetOptimizer:
    """A short optimisation."""
    return TargetOptimizer(
        **({"steps": 6, "learning_rate": 0.2, "decay": 0.01, "max_norm_ratio": 2.0} | changes)
    )


def moments(model: Model, seed: int = 0) -> GivenMoments:
    """A well-conditioned second moment of every layer."""
    generator = torch.Generator().manual_seed(seed)
    width = model.weight("mlp_down", 0).shape[1]
    keys = torch.randn(model.depth, width, 4 * width, generator=generator, dtype=torch.float64)
    return GivenMoments(matrices={layer: k @ k.T / k.shape[1] for layer, k in enumerate(keys)})


def contexts() -> GivenContexts:
    """Two templates beside the bare slot."""
    return GivenContexts(templates=TEMPLATES)
