"""Train a tiny model: `python -m pipeline build_world [model=…] [facts=…] [limit=…] [out=…]`.

Without `facts` a model learns the built-in world; with it, the facts of a file in CounterFact's layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editors.errors import ConfigError, NormscopeError
from editors.text_files import local_path
from pipeline.data.sources import CounterFact
from pipeline.data.world.borrowed import BorrowedWorld
from pipeline.data.world.facts import World
from pipeline.data.world.recipe import build
from pipeline.data.world.shipped_models import recipe_of

USAGE = "python -m pipeline build_world [model=tiny-gpt2] [facts=FILE] [limit=N] [out=FOLDER]"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of the command line."""

    model: str = "tiny-gpt2"
    facts: str | None = None
    """A file in CounterFact's layout."""
    limit: int | None = None
    """Number of its facts to learn; all by default."""
    out: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of the model: `out`, by default `outputs/models/` and the names of model and facts file."""
        name = self.model if self.facts is None else f"{self.model}-{Path(self.facts).stem}"
        return local_path(self.out or f"outputs/models/{name}")


def parse(arguments: Sequence[str]) -> BuildOptions:
    """The options of `key=value …`; raises ConfigError for anything else."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value or key not in BuildOptions.__dataclass_fields__:
            raise ConfigError(f"{argument!r} is not an option; usage: {USAGE}")
        values[key] = value
    limit = values.pop("limit", None)
    if limit is not None and (not limit.isdecimal() or int(limit) < 1):
        raise ConfigError(f"limit={limit}, but it has to be a positive whole number")
    if limit is not None and "facts" not in values:
        raise ConfigError(f"limit={limit} says how many of a file's facts to learn; add facts=FILE")
    return BuildOptions(**values, limit=None if limit is None else int(limit))


def build_from(options: BuildOptions) -> None:
    """Build the model that the options describe; raises ConfigError if its folder cannot be written."""
    recipe = recipe_of(options.model)
    if options.facts is None:
        source = World()
    else:
        source = BorrowedWorld(facts=CounterFact(path=options.facts, limit=options.limit).load().facts)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"out={options.folder} cannot be written ({error.strerror}); choose another"
        ) from error
    build(source, recipe, options.folder)


def main(arguments: Sequence[str]) -> str | int:
    """Build the model of the command line; returns an exit status, or the message of an error."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)  # noqa: T201
        return 0
    try:
        options = parse(arguments)
        build_from(options)
    except NormscopeError as error:
        return f"error: {error}"
    print(options.folder)  # noqa: T201 - for scripts
    return 0
