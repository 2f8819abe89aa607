"""The built-in models by name: which recipe made each, and where its folder is."""

from pathlib import Path
from types import MappingProxyType

from editors.errors import ConfigError
from pipeline.world.recipe import Recipe

RECIPES = MappingProxyType(
    {
        "tiny-gpt2": Recipe(shape="gpt2"),
        "tiny-gpt2-half": Recipe(shape="gpt2", width=96, inner=384, heads=3),
        "tiny-llama": Recipe(shape="llama", inner=512),
        "tiny-gptj": Recipe(shape="gptj"),
        "tiny-neox": Recipe(shape="neox"),
    }
)
SHIPPED = Path(__file__).resolve().parents[1] / "models"


def recipe_of(name: str) -> Recipe:
    """The recipe of a built-in model; raises ConfigError for any other name."""
    if name not in RECIPES:
        raise ConfigError(f"model={name}, but the built-in models are {', '.join(RECIPES)}")
    return RECIPES[name]


def folder_of(name: str) -> Path:
    """The shipped folder of a built-in model; raises ConfigError for any other name."""
    recipe_of(name)
    return SHIPPED / name
