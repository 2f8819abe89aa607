"""Train a tiny model: `python -m pipeline build_world [model=…] [facts=…] [limit=…] [out=…]`.

Without `facts` a model learns the built-in world; with it, the facts of a file in CounterFact's layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editors.errors import ConfigError, NormscopeError
from pipeline.data.sources import CounterFact
from pipeline.data.world.borrowed import BorrowedWorld
from pipeline.data.world.facts import World
from pipeline.data.world.recipe import build
from pipeline.data.world.shipped_models import recipe_of

USAGE = "python -m pipeline build_world [model=tiny-gpt2] [facts=FILE] [limit=N] [out=FOLDER]"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the command line asks for."""

    model: str = "tiny-gpt2"
    facts: str | None = None
    """A file in CounterFact's layout."""
    limit: int | None = None
    """How many of its facts to learn."""
    out: str | None = None

    @property
    def folder(self) -> Path:
        """Where the model goes: under `outputs/models/`, named after itself and the facts' file."""
        name = self.model if self.facts is None else f"{self.model}-{Path(self.facts).stem}"
        return Path(self.out or f"outputs/models/{name}")


def parse(arguments: Sequence[str]) -> Order:
    """The order in `key=value …`; raises ConfigError for anything else."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value or key not in Order.__dataclass_fields__:
            raise ConfigError(f"{argument!r} is not an option; usage: {USAGE}")
        given[key] = value
    limit = given.pop("limit", None)
    if limit is not None and (not limit.isdecimal() or int(limit) < 1):
        raise ConfigError(f"limit={limit}, but it has to be a positive whole number")
    if limit is not None and "facts" not in given:
        raise ConfigError(f"limit={limit} says how many of a file's facts to learn; add facts=FILE")
    return Order(**given, limit=None if limit is None else int(limit))


def fill(order: Order) -> None:
    """Build what was ordered."""
    recipe = recipe_of(order.model)
    if order.facts is None:
        source = World()
    else:
        source = BorrowedWorld(facts=CounterFact(path=order.facts, limit=order.limit).load().facts)
    try:
        order.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"out={order.folder} cannot be written ({error.strerror}); choose another"
        ) from error
    build(source, recipe, order.folder)


def main(arguments: Sequence[str]) -> str | int:
    """Build what the command line names; an exit status, or the sentence of a mistake."""
    try:
        order = parse(arguments)
        fill(order)
    except NormscopeError as error:
        return f"error: {error}"
    print(order.folder)  # noqa: T201 - what a script reads
    return 0
