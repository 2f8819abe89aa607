"""Facts by the name of a data set, from a file, or written out."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from editors.data import Fact
from editors.errors import ConfigError, DataError
from editors.text_files import local_path
from pipeline.build import build_data
from pipeline.notebook.composition import choices_of, composed
from pipeline.notebook.models import NO_EDITS


def facts(*sources: str | Path | Sequence[str | Path], **options: Any) -> tuple[Fact, ...]:
    """The facts of all sources, in their order; rows that cannot be used are left out with a warning.

    A source is a name of `conf/data` with `options` of that data set (`ns.facts("atlas",
    known_by="smollm2-135m")`); a file of any layout of docs/data.md (`ns.facts("facts.csv")`); or a fact
    that is written out (`ns.facts("The capital of [Japan] is|Tokyo|Madrid")`). A list holds several.

    Raises:
        ConfigError: for an option that there is not.
        DataError: for a file that is missing, or holds no fact, and for what is no source.
    """
    if not sources:
        raise ConfigError('ns.facts() names no source: give a file, as in ns.facts("facts.csv")')
    return tuple(fact for source in _flat(sources) for fact in _read(source, options))


def fact_list(facts: Fact | str | Path | Sequence[Fact | str | Path]) -> list[Fact]:
    """One fact or several, each a `Fact` or a source of `facts`.

    Raises:
        DataError: for anything else.
    """
    return [fact for each in _flat([facts]) for fact in _read(each, {})]


def _flat(sources: Iterable[object]) -> Iterator[object]:
    """The sources, with those of lists among them."""
    for source in sources:
        yield from source if isinstance(source, list | tuple | Iterator) else [source]


def _read(fact: object, options: dict[str, Any]) -> Sequence[Fact]:
    if isinstance(fact, Fact):
        return [fact]
    if isinstance(fact, str | Path):
        return _facts(str(fact), options)
    raise DataError(
        f"a fact is expected, but got {type(fact).__name__}: give ns.Fact(...), a line such as "
        "'The capital of [Japan] is|Tokyo|Madrid', a file, or a list of these"
    )


def _facts(source: str, options: dict[str, Any]) -> tuple[Fact, ...]:
    choice, own = _choice(source)
    plain = composed([f"data={choice}", *NO_EDITS], {"data": own | options})
    return build_data(plain).load().facts


def _choice(source: str) -> tuple[str, dict[str, Any]]:
    """The choice of `conf/data` that reads a source, with the values that it needs."""
    if local_path(source).is_file():
        return "file", {"path": source}
    if source in choices_of("data"):
        return source, {}
    return ("lines", {"facts": [source]}) if "|" in source else ("file", {"path": source})
