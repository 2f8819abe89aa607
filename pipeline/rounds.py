"""Editing the same facts again, round after round, each time to another object of the same relation."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from editors.errors import DataError
from editors.model.facts import Fact


def in_rounds(order: Sequence[Fact], edits: int, *, among: Iterable[Fact], seed: int) -> tuple[Fact, ...]:
    """As many edits of the facts in their order, and again of the same ones where they are used up.

    In round r, from 0, a fact is edited to the r-th object after its own: the objects of its relation (of its
    prompt, where a data set names no relations) as new and true ones `among` all facts, in an order drawn
    from the seed and without its true one, over and over. Its id is then `<id>#<r + 1>`.

    Raises DataError for a fact whose relation has no other object to edit to.
    """
    objects = _objects(among)
    choices = [_choices(fact, objects, seed) for fact in order[: max(edits - len(order), 0)]]
    stream = list(order[:edits])
    for number in range(len(order), edits):
        turn, place = divmod(number, len(order))
        fact, others = order[place], choices[place]
        stream.append(
            replace(
                fact,
                id=f"{fact.id}#{turn + 1}",
                target_new=others[turn % len(others)],
                replaces=stream[number - len(order)].id,
            )
        )
    return tuple(stream)


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
    if len(others) < 2:
        raise DataError(
            f"fact {fact.id} cannot be edited again: {relation!r} has the objects {', '.join(sorted(drawn))} "
            "alone; leave intervention.cycle out, or choose a larger data set (or a higher data.limit)"
        )
    first = others.index(fact.target_new)
    return others[first:] + others[:first]
