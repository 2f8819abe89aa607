"""The built-in models by name: which recipe makes each, and where its folder is."""

from pathlib import Path
from types import MappingProxyType

from filelock import FileLock

from editors.errors import ConfigError
from pipeline.world.facts import World
from pipeline.world.recipe import Recipe, build

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


def ensure(name: str, cache: Path) -> Path:
    """The folder of a built-in model: as shipped, or built into `cache` when it is first asked for.

    Building takes minutes and shows a progress bar; a second process waits for the first.
    """
    recipe = recipe_of(name)
    if (shipped := SHIPPED / name).is_dir():
        return shipped
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = cache / f"{name}.partial"
            build(World(), recipe, partial)
            partial.rename(folder)
    return folder
