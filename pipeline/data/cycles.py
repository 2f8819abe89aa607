"""Streams that edit the same facts repeatedly, in each round to another object of the same relation."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from editors.data import Fact
from editors.errors import DataError

log = logging.getLogger(__name__)


def cycled_stream(order: Sequence[Fact], edits: int, *, among: Iterable[Fact], seed: int) -> tuple[Fact, ...]:
    """`edits` edits: the facts in their order, then the same facts again, round after round.

    In round r, counted from 0, a fact is edited to the r-th object after its own target, cyclically. The
    objects are all new and true objects of its relation (of its prompt, if the data set has no relations)
    `among` all facts, in an order drawn from the seed, without the fact's true object. The id is then
    `<id>#<r + 1>`. Facts whose relation has no other object are edited in the first round only; their number
    is logged.

    Raises DataError if no fact can be edited again.
    """
    if edits <= len(order):
        return tuple(order[:edits])
    objects = _objects(among)
    targets = {fact: _targets(fact, objects, seed) for fact in order}
    repeated = [fact for fact in order if len(targets[fact]) > 1]
    if not repeated:
        raise DataError(
            f"edits={edits}, but no fact could be edited again: that needs three objects of a relation, "
            "including the true one; leave intervention.cycle out, or choose a larger data set (data.limit)"
        )
    if len(repeated) < len(order):
        once, total = len(order) - len(repeated), len(order)
        log.warning("%d of %d facts are edited once: their relations have too few objects", once, total)
    stream = list(order)
    for number in range(edits - len(order)):
        turn, place = divmod(number, len(repeated))
        fact = repeated[place]
        stream.append(_in_round(fact, turn + 1, targets[fact]))
    return tuple(stream)


def _in_round(fact: Fact, turn: int, targets: Sequence[str]) -> Fact:
    """The edit of the fact in a later round."""
    before = f"{fact.id}#{turn}" if turn > 1 else fact.id
    new = targets[turn % len(targets)]
    return replace(fact, id=f"{fact.id}#{turn + 1}", target_new=new, replaces=before)


def _relation(fact: Fact) -> str:
    return fact.relation or fact.prompt


def _objects(facts: Iterable[Fact]) -> dict[str, set[str]]:
    """All objects of each relation."""
    objects: dict[str, set[str]] = {}
    for fact in facts:
        objects.setdefault(_relation(fact), set()).update({fact.target_new, fact.target_true} - {""})
    return objects


def _targets(fact: Fact, objects: Mapping[str, set[str]], seed: int) -> list[str]:
    """The objects that the fact can be edited to, beginning with its own new object."""
    relation = _relation(fact)
    candidates = sorted(objects[relation])
    random.Random(f"{seed}/{relation}").shuffle(candidates)
    targets = [candidate for candidate in candidates if candidate != fact.target_true]
    first = targets.index(fact.target_new)
    return targets[first:] + targets[:first]
