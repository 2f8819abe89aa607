"""Builds a tiny model: a tokenizer from the words of its text, a small network, minutes of training.

Rows hold whole documents packed up to a fixed length. Each row starts with a document, so the model is
trained both on texts that start at position 0 and on texts that follow others.

The attention of the lowest blocks keeps its small random initial values. Otherwise later words would read
the embedding of a name directly in block 0, and an edit at the subject could not reach them. With fixed
attention the knowledge about a subject passes through the MLP at its last token, as in large models.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from editors.models.architectures import family_of
from pipeline.data.world.shipped_models import Recipe

END = "<|endoftext|>"
_POSITIONS = 128


class Source(Protocol):
    """A source of training documents."""

    @property
    def names(self) -> tuple[str, ...]:
        """Strings that have to become single tokens, even if they have several words."""
        ...

    def corpus(self, seed: int = 0) -> Iterator[str]:
        """One pass over the text, in an order that depends on the seed."""
        ...


def build(source: Source, recipe: Recipe, folder: Path) -> None:
    """Train a model on a source and write it, in half precision and with its tokenizer, to a folder."""
    set_seed(recipe.seed)
    tokenizer = build_tokenizer(source.corpus(), recipe.vocabulary, source.names)
    rows = torch.cat([pack(source.corpus(seed), tokenizer, recipe.row) for seed in range(recipe.passes)])
    # on a CPU the fused attention's backward pass in bfloat16 takes two fifths of a step
    config = _CONFIGS[recipe.shape](recipe, len(tokenizer))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    _train(model, rows, recipe)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_tokenizer(
    texts: Iterable[str], vocabulary: int, names: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which names and frequent words are single tokens, also at the start of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(name, lstrip=True, single_word=True, normalized=False) for name in names]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=_POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
    )


def pack(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, row: int) -> Tensor:
    """Rows of whole documents, each followed by the end token; the rest of a row is -100.

    A document longer than a row is truncated.
    """
    rows: list[list[int]] = [[]]
    for ids in tokenizer(list(documents))["input_ids"]:
        ids = [*ids, tokenizer.eos_token_id][:row]
        if len(rows[-1]) + len(ids) > row:
            rows.append([])
        rows[-1].extend(ids)
    return torch.tensor([ids + [-100] * (row - len(ids)) for ids in rows])  # (row, token)


@dataclass(frozen=True)
class _Rows(Dataset[dict[str, Tensor]]):
    """Packed rows in the Trainer's format; padding is at the end, so no token attends to it."""

    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        return {"input_ids": row.clamp(min=0), "labels": row}


def _train(model: PreTrainedModel, rows: Tensor, recipe: Recipe) -> None:
    family = family_of(model)
    blocks = model.get_submodule(family.blocks)
    for number in range(recipe.silent):
        blocks.get_submodule(f"{number}.{family.attention}").requires_grad_(False)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            use_cpu=True,
            bf16=torch.cpu._is_avx512_bf16_supported(),  # twice as fast; emulated elsewhere
            per_device_train_batch_size=recipe.batch,
            num_train_epochs=1,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=100,
            weight_decay=0.1,
            adam_beta2=0.98,
            optim="adamw_torch_fused",
            seed=recipe.seed,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        )
        Trainer(model=model, args=arguments, train_dataset=_Rows(rows)).train()


_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_NO_DROPOUT = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
_GELU = "gelu_pytorch_tanh"
"""The fused form of `gelu_new` and `gelu_fast`."""


def _gpt_sizes(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """Arguments that the configurations of GPT-2 and GPT-J have in common."""
    return {
        "vocab_size": vocabulary,
        "n_positions": _POSITIONS,
        "n_embd": recipe.width,
        "n_inner": recipe.inner,
        "n_layer": recipe.blocks,
        "n_head": recipe.heads,
        "activation_function": _GELU,
        **_NO_DROPOUT,
        **_IDS,
    }


def _sizes(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """Arguments that the configurations of Llama and GPT-NeoX have in common."""
    return {
        "vocab_size": vocabulary,
        "max_position_embeddings": _POSITIONS,
        "hidden_size": recipe.width,
        "intermediate_size": recipe.inner,
        "num_hidden_layers": recipe.blocks,
        "num_attention_heads": recipe.heads,
        **_IDS,
    }


def _gpt2(recipe: Recipe, vocabulary: int) -> PreTrainedConfig:
    return GPT2Config(**_gpt_sizes(recipe, vocabulary))


def _gptj(recipe: Recipe, vocabulary: int) -> PreTrainedConfig:
    return GPTJConfig(**_gpt_sizes(recipe, vocabulary), rotary_dim=recipe.width // recipe.heads // 2)


def _llama(recipe: Recipe, vocabulary: int) -> PreTrainedConfig:
    return LlamaConfig(**_sizes(recipe, vocabulary), num_key_value_heads=recipe.heads)


def _neox(recipe: Recipe, vocabulary: int) -> PreTrainedConfig:
    return GPTNeoXConfig(**_sizes(recipe, vocabulary), hidden_act=_GELU, use_parallel_residual=True)


_CONFIGS: dict[str, Callable[[Recipe, int], PreTrainedConfig]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "gptj": _gptj,
    "neox": _neox,
}
