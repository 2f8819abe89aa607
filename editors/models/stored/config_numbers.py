"""Numbers of a `config.json` or GGUF header: sizes, and constants with which a model would compute NaN."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

_SIZES = (
    *("hidden_size", "n_embd", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head"),
    *("vocab_size", "max_position_embeddings", "n_positions"),
)
_OPTIONAL_SIZES = ("intermediate_size", "n_inner", "num_key_value_heads", "head_dim", "rotary_dim")
"""These may be null."""
_LISTED = ("num_hidden_layers", "n_layer", "num_labels")
"""Numbers of which transformers makes a list before the weights are looked at."""
MOST = 10_000
"""The largest of these; the deepest models have some hundred blocks."""
_POSITIVE = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "rope_theta", "rotary_emb_base")
_OPTIONAL_POSITIVE = (
    *("factor", "attention_factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"),
    "original_max_position_embeddings",
)
"""Entries of a rotary embedding; these may be null."""
_SHARES = ("partial_rotary_factor", "rotary_pct")
"""Shares of a head that is rotated; these may be null."""
_ROTARY = ("rope_parameters", "rope_scaling")
"""Objects inside of a configuration; older versions of transformers wrote the second."""


def number_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for every number of a configuration that no model can have, with its key and value."""
    for key in (*_SIZES, *_OPTIONAL_SIZES):
        value = config.get(key, 1)
        if not (key in _OPTIONAL_SIZES and value is None) and not _is_size(value):
            yield f"{key}={value!r} has to be a positive whole number"
    for key in _LISTED:
        if isinstance(value := config.get(key), int) and value > MOST:
            yield f"{key}={value} has to be at most {MOST:,}"
    yield from _constant_problems(config, _POSITIVE, "")
    for name in _ROTARY:
        if isinstance(rotary := config.get(name), Mapping):
            yield from _constant_problems(rotary, (*_POSITIVE, *_OPTIONAL_POSITIVE), f"{name}.")


def _constant_problems(entries: Mapping[str, Any], positive: tuple[str, ...], above: str) -> Iterator[str]:
    for key, value in entries.items():
        if value is None and key not in _POSITIVE:
            continue
        if key in positive and not _is_positive(value):
            yield f"{above}{key}={value!r} has to be a positive finite number"
        if key in _SHARES and not (_is_positive(value) and value <= 1):
            yield f"{above}{key}={value!r} has to be a number above 0 and at most 1"


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: object) -> TypeGuard[int | float]:
    """Whether a value is a positive number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return 0 < float(value) < math.inf
    except OverflowError:
        return False
