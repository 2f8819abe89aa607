"""The facts of a plan that the model cannot read, found before the first edit."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from editors.data import SLOT, Fact, Reader, as_it_is
from editors.errors import DataError
from editors.models.model import Model
from editors.models.readings import Reading, edited, faults, known, scored
from pipeline.interventions.base import Plan

log = logging.getLogger(__name__)

Unreadable = Literal["refuse", "skip"]
_SHOWN = 5


def readable(
    model: Model,
    plan: Plan,
    contexts: Sequence[Sequence[str]],
    unreadable: Unreadable,
    reader: Reader = as_it_is,
) -> Plan:
    """The plan without facts that are too long for the model, or whose subject or target shares a token.

    Read are every edit in its contexts and, through the reader, every prompt that a stage may score. Facts
    that are only measured are left out with a count; so are edits with `skip`, and a later edit of the same
    prompt with them.

    Raises:
        DataError: with `refuse` if an edit cannot be read, and if none is left.
    """
    pairs = zip(plan.stream, contexts, strict=True)
    readings = [
        [*edited(fact, templates), *(_as_read(each, reader) for each in scored(fact))]
        for fact, templates in pairs
    ]
    faulty = {
        fact.id: fault for fact, fault in zip(plan.stream, faults(model, readings), strict=True) if fault
    }
    if faulty and (unreadable == "refuse" or len(faulty) == len(plan.stream)):
        raise DataError(_refusal(model, faulty, len(plan.stream)))
    stream = _without(plan.stream, set(faulty))
    if faulty:
        left = len(plan.stream) - len(stream)
        log.warning("left out %d of %d edits: %s", left, len(plan.stream), _listed(faulty))
    subjects = {fact.subject for fact in stream}
    others = [fact for fact in plan.others if fact.subject in subjects]
    return replace(
        plan,
        stream=stream,
        others=_measured(model, others, reader),
        untouched=_measured(model, plan.untouched, reader),
    )


def learnable(model: Model, facts: Sequence[Fact]) -> Sequence[Fact]:
    """The facts of which every prompt can be read, for the training of an editor; others are counted."""
    readings = [[*edited(fact, (SLOT,)), *scored(fact)] for fact in facts]
    return _kept(model, facts, readings, "for an editor to learn")


def _without(stream: Sequence[Fact], unread: set[str]) -> Sequence[Fact]:
    """The edits that can be read and do not replace one that is left out."""
    kept: list[Fact] = []
    for fact in stream:
        if fact.id in unread or fact.replaces in unread:
            unread.add(fact.id)
        else:
            kept.append(fact)
    return tuple(kept)


def _measured(model: Model, facts: Sequence[Fact], reader: Reader) -> Sequence[Fact]:
    """The facts whose statement with its object can be read."""
    readings = [[_as_read(known(fact), reader)] for fact in facts]
    return _kept(model, facts, readings, "that are not edited")


def _as_read(reading: Reading, reader: Reader) -> Reading:
    return reading._replace(prompt=reader(reading.prompt))


def _kept(
    model: Model, facts: Sequence[Fact], readings: Sequence[Sequence[Reading]], which: str
) -> Sequence[Fact]:
    problems = faults(model, readings)
    kept = tuple(fact for fact, fault in zip(facts, problems, strict=True) if not fault)
    if len(kept) < len(facts):
        left = len(facts) - len(kept)
        log.warning("left out %d of %d facts %s: %s cannot read them", left, len(facts), which, model.name)
    return kept


def _refusal(model: Model, faulty: dict[str, str], total: int) -> str:
    return (
        f"{model.name} cannot read {len(faulty)} of {total} facts ({_listed(faulty)}): remove them from the "
        "data, or set unreadable=skip in the intervention that edits (+intervention.unreadable=skip)"
    )


def _listed(faulty: dict[str, str]) -> str:
    shown = "; ".join(f"fact {identity}: {fault}" for identity, fault in list(faulty.items())[:_SHOWN])
    return f"{shown}; and {len(faulty) - _SHOWN} more" if len(faulty) > _SHOWN else shown
