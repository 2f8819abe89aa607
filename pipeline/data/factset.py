"""A validated set of facts: the rows skipped with reasons, the facts to edit in order, and all others."""

import hashlib
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from editors.data import SLOT, Fact
from editors.errors import ConfigError, DataError
from pipeline.data.cycles import cycled_stream
from pipeline.data.readers import Entry

log = logging.getLogger(__name__)

Reason = Literal[
    "broken line",
    "missing field",
    "subject absent",
    "subject twice",
    "empty target",
    "identical targets",
    "duplicate",
    "conflicting duplicate",
]
Parser = Callable[[Mapping[str, object], str], Fact]
"""Reads one row into a fact, given the id for a row that has none; raises `Unusable`."""


class Unusable(Exception):
    """A row cannot become a fact; carries the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that was left out."""

    id: str
    """The fact's id if it could be read, else the place, such as `line 12`."""
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class FactSet:
    """The usable facts of a data set, in the order of the data set."""

    name: str
    facts: tuple[Fact, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def counts(self) -> dict[Reason, int]:
        """Number of rows left out per reason, most frequent first."""
        counter: Counter[Reason] = Counter(row.reason for row in self.skipped)
        return dict(counter.most_common())

    def stream(
        self, edits: int, seed: int, one_per_subject: bool = False, cycle: bool = False
    ) -> tuple[Fact, ...]:
        """The facts to edit, in an order drawn from `seed`; with `cycle` repeatedly (`cycles.py`).

        A shorter stream is the beginning of any longer one with the same seed.
        Raises ConfigError for a number of edits below 1, DataError for more edits than facts.
        """
        if edits < 1:
            raise ConfigError(f"edits={edits}, but a run needs at least 1 edit")
        order = list(self.facts)
        random.Random(seed).shuffle(order)
        if one_per_subject:
            firsts: dict[str, Fact] = {}
            for fact in order:
                firsts.setdefault(fact.subject, fact)
            order = list(firsts.values())
        if cycle:
            return cycled_stream(order, edits, among=self.facts, seed=seed)
        if edits > len(order):
            kind = "facts with different subjects" if one_per_subject else "facts"
            raise DataError(
                f"edits={edits}, but data={self.name} has only {len(order)} {kind}: "
                f"set edits={len(order)} or lower, or choose a larger data set (or a higher data.limit); "
                "+intervention.cycle=true edits the same facts again"
            )
        return tuple(order[:edits])

    def training(self, share: float = 0.5) -> "FactSet":
        """The facts of about `share` of the subjects, for training; the others are held out.

        The side of a subject depends only on a hash of its name, the first 64 bits of SHA-256 as a fraction,
        not on the rest of the data set or its order.
        """
        return self._filtered(lambda fact: _fraction(fact.subject) < share)

    def held_out(self, share: float = 0.5) -> "FactSet":
        """The facts that are not in `training(share)`: no subject is in both."""
        return self._filtered(lambda fact: _fraction(fact.subject) >= share)

    def others(self, stream: Iterable[Fact]) -> tuple[Fact, ...]:
        """Facts about edited subjects that the edits are not meant to change.

        Another wording of an edited fact does not count as another fact: it has the same subject and relation
        (the same true object, if the data set has no relations).
        """
        edited = list(stream)
        ids, subjects = {fact.id for fact in edited}, {fact.subject for fact in edited}
        changed = {_topic(fact) for fact in edited} - {None}
        return tuple(
            fact
            for fact in self.facts
            if fact.subject in subjects and fact.id not in ids and _topic(fact) not in changed
        )

    def untouched(self, stream: Iterable[Fact]) -> tuple[Fact, ...]:
        """Facts about subjects that are never edited."""
        subjects = {fact.subject for fact in stream}
        return tuple(fact for fact in self.facts if fact.subject not in subjects)

    def _filtered(self, condition: Callable[[Fact], bool]) -> "FactSet":
        return replace(self, facts=tuple(fact for fact in self.facts if condition(fact)))


def _fraction(subject: str) -> float:
    """A number in [0, 1) from a hash of the name: evenly distributed and reproducible."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") / 2**64


def _topic(fact: Fact) -> tuple[str, str] | None:
    """Subject and relation (or true object) of a fact; None if its data set has neither."""
    about = fact.relation or fact.target_true
    return (fact.subject, about) if about else None


@dataclass(kw_only=True)
class Validator:
    """Admits facts one by one and remembers them, in order to recognise duplicates."""

    drop_conflicts: bool = False
    """Also refuse a second fact about the same subject and relation (the filter of MultiCounterFact)."""
    _ids: set[str] = field(default_factory=set)
    _targets: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def admit(self, fact: Fact) -> None:
        """Remember the fact, or raise `Unusable` if it repeats or contradicts an earlier one."""
        if fact.target_new == fact.target_true:
            raise Unusable("identical targets")
        keys = [("prompt", fact.subject, fact.prompt)]
        # without relation ids, the same true object of the same subject counts as the same relation
        if self.drop_conflicts and (relation := fact.relation or fact.target_true):
            keys.append(("relation", fact.subject, relation))
        if fact.id in self._ids or self._targets.get(keys[0]) == fact.target_new:
            raise Unusable("duplicate")
        if any(self._targets.get(key, fact.target_new) != fact.target_new for key in keys):
            raise Unusable("conflicting duplicate")
        self._ids.add(fact.id)
        self._targets |= dict.fromkeys(keys, fact.target_new)


def read_facts(
    entries: Iterable[Entry],
    parse: Parser,
    *,
    name: str,
    source: str,
    limit: int | None = None,
    drop_conflicts: bool = False,
) -> FactSet:
    """The facts in rows, at most `limit`; rows that cannot be used are skipped with a reason, not fatal.

    Raises DataError if no row can be used.
    """
    facts: list[Fact] = []
    skipped: list[Skipped] = []
    validator = Validator(drop_conflicts=drop_conflicts)
    for entry in entries:
        if len(facts) == limit:
            break
        identity = entry.where
        try:
            if entry.row is None:
                raise Unusable("broken line")
            identity = str(entry.row.get("case_id", entry.where))
            fact = parse(entry.row, str(entry.row.get("case_id", entry.number)))
            validator.admit(fact)
        except Unusable as problem:
            skipped.append(Skipped(id=identity, reason=problem.reason))
        else:
            facts.append(fact)
    factset = FactSet(name=name, facts=tuple(facts), skipped=tuple(skipped))
    reasons = ", ".join(f"{reason}: {count}" for reason, count in factset.counts.items()) or "it is empty"
    if not facts:
        raise DataError(f"no row of {source} is usable as a fact of data={name} ({reasons})")
    if skipped:
        log.warning("%s: %d facts; skipped %d rows (%s)", source, len(facts), len(skipped), reasons)
    return factset


def text_field(row: Mapping[str, object], key: str) -> str:
    """The string under `key`; raises `Unusable` if there is none."""
    value = row.get(key)
    if not isinstance(value, str):
        raise Unusable("missing field")
    return value


def text_list_field(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The strings listed under `key`, none if the key is absent; raises `Unusable` for anything else."""
    values = row.get(key) or []
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise Unusable("missing field")
    return tuple(str(value) for value in values)


def target_field(row: Mapping[str, object], key: str) -> str:
    """The object under `key` without surrounding space; raises `Unusable` if it is empty."""
    target = text_field(row, key).strip()
    if not target:
        raise Unusable("empty target")
    return target


def with_slot(prompt: str, subject: str) -> str:
    """The prompt with a slot in place of the subject, which must occur exactly once.

    A subject inside a longer word does not count: "Ra" does not occur in "Ravi".
    """
    if not subject:
        raise Unusable("subject absent")
    # compiling the expression takes longer than all the rest, and few prompts with a slot need one
    whole = rf"(?<!\w){re.escape(subject)}(?!\w)"
    mentions = list(re.finditer(whole, prompt)) if subject in prompt else []
    places = len(mentions) + prompt.count(SLOT)
    if places != 1:
        raise Unusable("subject twice" if places else "subject absent")
    if not mentions:
        return prompt
    start, end = mentions[0].span()
    return f"{prompt[:start]}{SLOT}{prompt[end:]}"
