"""Module paths of the named sites of each architecture family; no other file contains module paths.

A family is recognised by `config.model_type` and by the modules that exist, never by a checkpoint's name.
Sites have the same names everywhere, metric keys included. Other code branches on the properties of a family,
such as a norm after the MLP, and never on its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from editors.errors import ModelError
from editors.models.stored.model_types import MODEL_TYPES, unsupported

SITES = ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_gate", "mlp_up", "mlp_down")
"""Every matrix of a block that is measured or edited, in the order of the forward pass."""

Rows = Callable[[PretrainedConfig], slice | torch.Tensor]
"""The output rows of a fused matrix that belong to a site."""


def _third(part: int) -> Rows:
    """Rows of q, k or v if the three are stacked one after the other (GPT-2)."""

    def rows(config: PretrainedConfig) -> slice:
        width = config.hidden_size
        return slice(part * width, (part + 1) * width)

    return rows


def _interleaved(part: int) -> Rows:
    """Rows of q, k or v if each head keeps its three together (GPT-NeoX)."""

    def rows(config: PretrainedConfig) -> torch.Tensor:
        heads = config.num_attention_heads
        size = config.hidden_size // heads
        index = torch.arange(3 * config.hidden_size).view(heads, 3, size)
        return index[:, part].reshape(-1)

    return rows


def _grouped(part: int) -> Rows:
    """Rows of q, k or v if they are stacked and keys and values may have fewer heads (Phi-3)."""

    def rows(config: PretrainedConfig) -> slice:
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        queries, others = config.num_attention_heads * size, config.num_key_value_heads * size
        starts = (0, queries, queries + others, queries + 2 * others)
        return slice(starts[part], starts[part + 1])

    return rows


def _half(part: int) -> Rows:
    """Rows of gate or up if they are stacked (Phi-3)."""

    def rows(config: PretrainedConfig) -> slice:
        return slice(part * config.intermediate_size, (part + 1) * config.intermediate_size)

    return rows


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths of one architecture family; block paths are relative to the block."""

    name: str
    model_types: tuple[str, ...]
    blocks: str
    final_norm: str
    input_norm: str | None
    """The norm between the residual stream and a block; None if the block reads the stream as it is."""
    attention: str
    mlp: str
    sites: Mapping[str, str]
    """Site name to the module that holds its matrix."""
    fused: Mapping[str, Rows] = field(default_factory=dict)
    """Rows of the sites that share a matrix with others."""
    output_norms: Mapping[str, str] = field(default_factory=dict)
    """`attention` and `mlp` to the norm between their output and the residual stream, if there is one."""
    gain_offset: float = 0.0
    """What every norm adds to its weight before it multiplies by it."""


_LLAMA = Family(
    name="llama",
    model_types=MODEL_TYPES["llama"],
    blocks="model.layers",
    final_norm="model.norm",
    input_norm="input_layernorm",
    attention="self_attn",
    mlp="mlp",
    sites={
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_o": "self_attn.o_proj",
        "mlp_gate": "mlp.gate_proj",
        "mlp_up": "mlp.up_proj",
        "mlp_down": "mlp.down_proj",
    },
)

_AFTER_BOTH = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
"""Norms after attention and MLP. In the Llama layout the first of these is the norm before the MLP."""

FAMILIES = (
    Family(
        name="gpt2",
        model_types=MODEL_TYPES["gpt2"],
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        input_norm="ln_1",
        attention="attn",
        mlp="mlp",
        sites={
            "attn_q": "attn.c_attn",
            "attn_k": "attn.c_attn",
            "attn_v": "attn.c_attn",
            "attn_o": "attn.c_proj",
            "mlp_up": "mlp.c_fc",
            "mlp_down": "mlp.c_proj",
        },
        fused={"attn_q": _third(0), "attn_k": _third(1), "attn_v": _third(2)},
    ),
    Family(
        name="gptj",
        model_types=MODEL_TYPES["gptj"],
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        input_norm="ln_1",
        attention="attn",
        mlp="mlp",
        sites={
            "attn_q": "attn.q_proj",
            "attn_k": "attn.k_proj",
            "attn_v": "attn.v_proj",
            "attn_o": "attn.out_proj",
            "mlp_up": "mlp.fc_in",
            "mlp_down": "mlp.fc_out",
        },
    ),
    Family(
        name="neox",
        model_types=MODEL_TYPES["neox"],
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        input_norm="input_layernorm",
        attention="attention",
        mlp="mlp",
        sites={
            "attn_q": "attention.query_key_value",
            "attn_k": "attention.query_key_value",
            "attn_v": "attention.query_key_value",
            "attn_o": "attention.dense",
            "mlp_up": "mlp.dense_h_to_4h",
            "mlp_down": "mlp.dense_4h_to_h",
        },
        fused={"attn_q": _interleaved(0), "attn_k": _interleaved(1), "attn_v": _interleaved(2)},
    ),
    _LLAMA,
    replace(
        _LLAMA,
        name="phi3",
        model_types=MODEL_TYPES["phi3"],
        sites={
            **_LLAMA.sites,
            "attn_q": "self_attn.qkv_proj",
            "attn_k": "self_attn.qkv_proj",
            "attn_v": "self_attn.qkv_proj",
            "mlp_gate": "mlp.gate_up_proj",
            "mlp_up": "mlp.gate_up_proj",
        },
        fused={
            "attn_q": _grouped(0),
            "attn_k": _grouped(1),
            "attn_v": _grouped(2),
            "mlp_gate": _half(0),
            "mlp_up": _half(1),
        },
    ),
    replace(
        _LLAMA,
        name="gemma",
        model_types=MODEL_TYPES["gemma"],
        output_norms=_AFTER_BOTH,
        gain_offset=1.0,
    ),
    replace(
        _LLAMA,
        name="olmo2",
        model_types=MODEL_TYPES["olmo2"],
        input_norm=None,
        output_norms=_AFTER_BOTH,
    ),
)


def family_of(hf: "transformers.PreTrainedModel") -> Family:
    """The family of a Hugging Face causal language model.

    Raises:
        ModelError: for a `model_type` that is not in the table, or if a module is missing.
    """
    kind = hf.config.model_type
    family = next((f for f in FAMILIES if kind in f.model_types), None)
    if family is None:
        raise ModelError(unsupported(kind))
    missing = [path for path in _paths(family) if not _has(hf, path)]
    if missing:
        raise ModelError(f"this {kind} model has no module {missing[0]!r}, so its sites cannot be found")
    return family


def _paths(family: Family) -> list[str]:
    norms = [path for path in (family.input_norm, *family.output_norms.values()) if path is not None]
    inside = [*norms, family.attention, family.mlp, *family.sites.values()]
    return [family.final_norm, *(f"{family.blocks}.0.{path}" for path in inside)]


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
