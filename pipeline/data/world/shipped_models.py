"""The built-in models by name: the recipe and the folder of each.

Separate from `recipe.py`, because runs only read the models and need no training code.
"""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from editors.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The architecture of a tiny model and its training."""

    shape: Literal["gpt2", "llama", "gptj", "neox"] = "gpt2"
    width: int = 192
    inner: int = 768
    """Width of the MLP, which is also the length of an edit's keys."""
    blocks: int = 4
    heads: int = 6
    silent: int = 2
    """Number of lowest blocks whose attention keeps its initial values."""
    vocabulary: int = 6144
    """Largest size without names; the tokenizer stops earlier once every word is a single token."""
    row: int = 64
    """Tokens per packed row."""
    passes: int = 14
    """Passes over the text, each with different filler and task items."""
    batch: int = 24
    """Rows per step."""
    learning_rate: float = 3e-3
    seed: int = 0


RECIPES = MappingProxyType(
    {
        "tiny-gpt2": Recipe(shape="gpt2"),
        "tiny-gpt2-half": Recipe(shape="gpt2", width=96, inner=384, heads=3),
        "tiny-llama": Recipe(shape="llama", inner=512),
        "tiny-gptj": Recipe(shape="gptj"),
        "tiny-neox": Recipe(shape="neox"),
    }
)

SHIPPED = Path(__file__).resolve().parent / "models"


def recipe_of(name: str) -> Recipe:
    """The recipe of a built-in model; raises ConfigError for any other name."""
    if name not in RECIPES:
        raise ConfigError(f"model={name}, but the built-in models are {', '.join(RECIPES)}")
    return RECIPES[name]


def shipped_folder(name: str) -> Path:
    """The shipped folder of a built-in model; raises ConfigError for any other name."""
    recipe_of(name)
    return SHIPPED / name
