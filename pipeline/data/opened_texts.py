"""Every text of a run is opened before weights are loaded, so that one that is missing is told in seconds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TypeVar

from analysis.stages.base import Stage
from analysis.stages.functional import FunctionalDrift
from editors.data import Protecting, TextReader

Part = TypeVar("Part")


def open_texts(parts: object, model: str) -> None:
    """Read the first document or pair of every text that the parts of a run will read for a model.

    Raises:
        ConfigError, DataError: as reading the text does.
    """
    opened: list[Iterable[object]] = []
    for reader in _parts(parts, TextReader):
        for text in reader.will_read(model):
            if text not in opened:
                next(iter(text), None)
                opened.append(text)


def in_sample(changing: object, stages: Sequence[Stage], model: str) -> Iterator[str]:
    """Sentences about stages that measure drift on a text that the editor protects.

    `changing` holds the editor. On that text a drift looks smaller than on others, because the editor made it
    small there.
    """
    protected = [source.protects for source in _parts(changing, Protecting)]
    for stage in stages:
        if isinstance(stage, FunctionalDrift) and any(
            text in protected for text in stage.texts.will_read(model)
        ):
            yield (
                f"{stage.name}: the text is the one that the editor protects, on which drift looks smaller "
                "than on other text: choose another one by corpus@text.corpus="
            )


def _parts(node: object, kind: type[Part]) -> Iterator[Part]:
    """Objects of a kind among the constructor's values of an object, and among theirs."""
    if isinstance(node, kind):
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
        yield from _parts(child, kind)
