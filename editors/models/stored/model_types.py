"""The supported architecture families by `model_type`; imports no torch."""

from types import MappingProxyType

MODEL_TYPES = MappingProxyType(
    {
        "gpt2": ("gpt2",),
        "gptj": ("gptj",),
        "neox": ("gpt_neox",),
        "llama": ("llama", "mistral", "qwen2", "qwen3", "smollm3"),
        "phi3": ("phi3",),
        "gemma": ("gemma2", "gemma3_text"),
        "olmo2": ("olmo2",),
    }
)
"""Name of each family to the `model_type` entries of its configurations."""

LOSSY_IN_GGUF = ("gemma2",)
"""Types whose GGUF files do not give transformers every constant, such as the scale of attention."""


def unsupported(kind: object) -> str | None:
    """A sentence about a `model_type` that is not in the table; None for one that is."""
    known = sorted(kind for kinds in MODEL_TYPES.values() for kind in kinds)
    if kind in known:
        return None
    if kind is None:
        return f"there is no model_type; supported are {', '.join(known)}"
    return f"model_type {kind!r} is not supported; supported are {', '.join(known)}"
