"""Editing the same facts again, round after round, each time to another object of the same relation."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from editors.data import Fact
from editors.errors import DataError

log = logging.getLogger(__name__)


def in_rounds(order: Sequence[Fact], edits: int, *, among: Iterable[Fact], seed: int) -> tuple[Fact, ...]:
    """As many edits of the facts in their order, and again of the same ones where they are used up.

    In round r, from 0, a fact is edited to the r-th object after its own: the objects of its relation (of its
    prompt, where a data set names no relations) as new and true ones `among` all facts, in an order drawn
    from the seed and without its true one, over and over. Its id is then `<id>#<r + 1>`. Facts whose relation
    has no other object sit out all rounds but the first; it is told how many.

    Raises DataError where no fact could be edited again.
    """
    if edits <= len(order):
        return tuple(order[:edits])
    objects = _objects(among)
    choices = {fact: _choices(fact, objects, seed) for fact in order}
    again = [fact for fact in order if len(choices[fact]) > 1]
    if not again:
        raise DataError(
            f"edits={edits}, but no fact could be edited again: it takes three objects of a relation, the "
            "true one included; leave intervention.cycle out, or choose a larger data set (data.limit)"
        )
    if len(again) < len(order):
        few, all_ = len(order) - len(again), len(order)
        log.warning("%d of %d facts are edited once: their relations have less than three objects", few, all_)
    stream = list(order)
    for number in range(edits - len(order)):
        turn, place = divmod(number, len(again))
        stream.append(_again(again[place], turn + 1, choices[again[place]]))
    return tuple(stream)


def _again(fact: Fact, turn: int, others: Sequence[str]) -> Fact:
    """The fact as it is edited in a later round."""
    before = f"{fact.id}#{turn}" if turn > 1 else fact.id
    new = others[turn % len(others)]
    return replace(fact, id=f"{fact.id}#{turn + 1}", target_new=new, replaces=before)


def _relation(fact: Fact) -> str:
    return fact.relation or fact.prompt


def _objects(facts: Iterable[Fact]) -> dict[str, set[str]]:
    """All objects of each relation."""
    found: dict[str, set[str]] = {}
    for fact in facts:
        found.setdefault(_relation(fact), set()).update({fact.target_new, fact.target_true} - {""})
    return found


def _choices(fact: Fact, objects: Mapping[str, set[str]], seed: int) -> list[str]:
    """What the fact can be edited to, beginning with its own new object."""
    relation = _relation(fact)
    drawn = sorted(objects[relation])
    random.Random(f"{seed}/{relation}").shuffle(drawn)
    others = [one for one in drawn if one != fact.target_true]
    first = others.index(fact.target_new)
    return others[first:] + others[:first]
