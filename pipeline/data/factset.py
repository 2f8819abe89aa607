"""A validated set of facts: the rows skipped with reasons, the facts to edit in order, and all others."""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace

from editors.data import Fact
from editors.errors import ConfigError, DataError, listed
from pipeline.data.cycles import cycled_stream
from pipeline.data.fields import Fields, Reason, Unusable
from pipeline.data.readers import Entry

log = logging.getLogger(__name__)

Parser = Callable[[Fields, str], Fact]
"""Reads the fields of a row into a fact with the given id; raises `Unusable`."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that was left out."""

    id: str
    """The fact's id if it could be read, else the place, such as `line 12`."""
    reason: Reason
    where: str
    """The place, such as `line 12`."""
    detail: str
    """What exactly is wrong, or the way out; may be empty."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.detail)))


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
                f"edits={edits}, but {self.name} has only {len(order)} {kind}: "
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
    clashes: list[str] = field(default_factory=list)
    """Ids of different facts, each with the two places."""
    _ids: dict[str, tuple[str, Fact]] = field(default_factory=dict)
    """For each id, the place and the fact."""
    _targets: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def admit(self, fact: Fact, where: str) -> None:
        """Remember the fact, or raise `Unusable` if it repeats or contradicts an earlier one."""
        if fact.target_new == fact.target_true:
            raise Unusable("identical targets")
        place, earlier = self._ids.setdefault(fact.id, (where, fact))
        if earlier is not fact and earlier != fact:
            self.clashes.append(f"{fact.id} ({place} and {where})")
        keys = [("prompt", fact.subject, fact.prompt)]
        # without relation ids, the same true object of the same subject counts as the same relation
        if self.drop_conflicts and (relation := fact.relation or fact.target_true):
            keys.append(("relation", fact.subject, relation))
        if earlier is not fact or self._targets.get(keys[0]) == fact.target_new:
            raise Unusable("duplicate")
        if any(self._targets.get(key, fact.target_new) != fact.target_new for key in keys):
            raise Unusable("conflicting duplicate")
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

    A row without `case_id` gets an id made from its content.
    Raises DataError if no row can be used, and for an id that different facts share.
    """
    facts: list[Fact] = []
    skipped: list[Skipped] = []
    blank = 0
    validator = Validator(drop_conflicts=drop_conflicts)
    for entry in entries:
        if len(facts) == limit:
            break
        identity = entry.where
        try:
            if entry.row is None:
                raise Unusable("broken line")
            fields = Fields(row=entry.row)
            stated = fields.name("case_id")
            identity = stated or entry.where
            fact = parse(fields, stated)
            fact = fact if stated else replace(fact, id=_content_id(fact))
            validator.admit(fact, entry.where)
        except Unusable as problem:
            row = Skipped(id=identity, reason=problem.reason, where=entry.where, detail=problem.detail)
            skipped.append(row)
        else:
            facts.append(fact)
            blank += fields.blank
    _check_ids(validator.clashes, source)
    factset = FactSet(name=name, facts=tuple(facts), skipped=tuple(skipped))
    if not facts:
        raise DataError(f"no row of {source} is usable as a fact of data={name} ({_reasons(factset)})")
    if skipped:
        log.warning(
            "%s: facts: %d, skipped rows: %d (%s)", source, len(facts), len(skipped), _reasons(factset)
        )
    if blank:
        log.warning("%s: left out %d blank paraphrases, neighbours and questions", source, blank)
    return factset


def _reasons(factset: FactSet) -> str:
    """Each reason for which rows were left out, how many, and the first of them."""
    firsts = {row.reason: row for row in reversed(factset.skipped)}
    listed = [f"{reason}: {count}, first {firsts[reason]}" for reason, count in factset.counts.items()]
    return "; ".join(listed) or "it is empty"


def _content_id(fact: Fact) -> str:
    """First 12 hex digits of SHA-256 over every field of a fact without id."""
    values = astuple(fact)
    if not fact.portability:  # the last field, without which older ids were made
        values = values[:-1]
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def _check_ids(clashes: Sequence[str], source: str) -> None:
    if clashes:
        raise DataError(
            f"different facts of {source} have the same case_id: {listed(clashes)}; "
            "give each fact a case_id of its own, or leave case_id out"
        )
