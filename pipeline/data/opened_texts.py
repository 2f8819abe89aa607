"""Every text of a run is opened before weights are loaded, so that one that is missing is told in seconds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass

from editors.data import TextReader


def open_texts(parts: object, model: str) -> None:
    """Read the first document or pair of every text that the parts of a run will read for a model.

    Raises:
        ConfigError, DataError: as reading the text does.
    """
    opened: list[Iterable[object]] = []
    for reader in _readers(parts):
        for text in reader.will_read(model):
            if text not in opened:
                next(iter(text), None)
                opened.append(text)


def _readers(node: object) -> Iterator[TextReader]:
    """The readers among the constructor's values of an object, and among theirs."""
    if isinstance(node, TextReader):
        yield node
    if isinstance(node, type):
        return
    if is_dataclass(node):
        children = [getattr(node, field.name, None) for field in fields(node) if field.init]
    elif isinstance(node, Mapping):
        children = list(node.values())
    else:
        children = list(node) if isinstance(node, list | tuple) else []
    for child in children:
        yield from _readers(child)
