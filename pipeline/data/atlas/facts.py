"""The atlas: true facts about places, people, works, companies and nature, for real language models.

The facts are common knowledge and were written down for this project, as were all sentences. In the form of
CounterFact (Meng et al. 2022, arXiv 2202.05262), each has a prompt, two paraphrases, the prompts of other
subjects with the same object (neighbours), and a counterfactual object of the same relation.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from editors.data import SLOT, Fact
from editors.errors import ConfigError, listed
from pipeline.data.factset import FactSet

_FOLDER = Path(__file__).parent
_NEIGHBOURS = 10
"""Neighbours of a fact at most, as in CounterFact."""
_TUNING = 0.1
"""Share of the subjects whose facts are kept for the choice of an editor's settings."""

AtlasPart = Literal["experiments", "tuning"]


@dataclass(frozen=True)
class Relation:
    """A relation with its prompts, and the true object of each subject."""

    name: str
    prompt: str
    """Text with the slot `{}` in place of the subject; the object follows."""
    paraphrases: tuple[str, ...]
    similar: tuple[frozenset[str], ...]
    """Sets of objects of which several may be right for a subject."""
    objects: Mapping[str, str]
    """The true object by subject."""

    def alternatives(self, true: str) -> list[str]:
        """Objects that are wrong wherever `true` is right."""
        both_right = frozenset({true}).union(*(group for group in self.similar if true in group))
        return [name for name in dict.fromkeys(self.objects.values()) if name not in both_right]


@dataclass(frozen=True, kw_only=True)
class AtlasFacts:
    """The atlas, or the part of it that a model knows.

    The counterfactual object and the order of the neighbours follow from a hash of relation and subject, so
    that a fact is the same whichever others are loaded.
    """

    name: str = "atlas"
    relations: Sequence[str] | None = None
    """Names of the relations, such as `country_capital`; null is all."""
    known_by: str | None = None
    """Only facts that this model knows: every token of the true object is its first choice, after the prompt
    and every paraphrase. The models are those of `known.yaml`; null is all facts."""
    part: AtlasPart | None = None
    """`tuning` is a tenth of the subjects, on which settings are chosen; `experiments` is the rest, on which
    they are judged; null is both. A hash of the subject divides them."""

    def __post_init__(self) -> None:
        _check("part", [self.part] if self.part else [], get_args(AtlasPart))
        _check("relations", self.relations or [], list(relations()))
        _check("known_by", [self.known_by] if self.known_by else [], list(_marks()))

    def load(self) -> FactSet:
        """The facts, relation after relation."""
        known = None if self.known_by is None else _marks()[self.known_by]
        return FactSet(
            name=self.name,
            facts=tuple(
                fact
                for relation in relations().values()
                if self.relations is None or relation.name in self.relations
                for fact in _facts(relation)
                if known is None or fact.subject in known.get(relation.name, ())
                if self.part in (None, _part(fact.subject))
            ),
        )


@cache
def relations() -> Mapping[str, Relation]:
    """The relations by name, as `relations.yaml` holds them."""
    return {
        name: Relation(
            name=name,
            prompt=entry["prompt"],
            paraphrases=tuple(entry["paraphrases"]),
            similar=tuple(map(frozenset, entry.get("similar", ()))),
            objects={s: true for true, subjects in entry["subjects"].items() for s in subjects},
        )
        for name, entry in _read("relations").items()
    }


def known_models() -> Sequence[str]:
    """The models of which it is known which facts they know."""
    return [*_marks()]


@cache
def _marks() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """For each model, the known subjects by relation."""
    return _read("known")


@cache
def _statements() -> Mapping[str, Sequence[tuple[str, str, str]]]:
    """For each object, the relations and subjects of which it is true, with the prompt."""
    statements = defaultdict(list)
    for relation in relations().values():
        for subject, true in relation.objects.items():
            statements[true].append((relation.name, subject, _filled(relation.prompt, subject)))
    return statements


def _facts(relation: Relation) -> Iterator[Fact]:
    for subject, true in relation.objects.items():
        wrong = relation.alternatives(true)
        yield Fact(
            id=f"{relation.name}/{subject}",
            prompt=relation.prompt,
            subject=subject,
            target_new=min(wrong, key=lambda name: _draw(relation.name, subject, name)),
            target_true=true,
            relation=relation.name,
            paraphrases=tuple(_filled(prompt, subject) for prompt in relation.paraphrases),
            neighbours=tuple(_neighbours(relation.name, subject, true)),
        )


def _part(subject: str) -> AtlasPart:
    return "tuning" if int(_draw("part", subject)[:8], 16) < _TUNING * 16**8 else "experiments"


def _neighbours(relation: str, subject: str, true: str) -> list[str]:
    """Prompts of other subjects that `true` follows: those of the relation before those of others."""
    others = [entry for entry in _statements()[true] if entry[1] != subject]
    others.sort(key=lambda entry: (entry[0] != relation, _draw(relation, subject, *entry)))
    return [prompt for _, _, prompt in others[:_NEIGHBOURS]]


def _filled(prompt: str, subject: str) -> str:
    return prompt.replace(SLOT, subject)


def _draw(*parts: str) -> str:
    """A text that is spread evenly over all texts of its length, and depends on the parts alone."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def _check(key: str, chosen: Sequence[str], possible: Sequence[str]) -> None:
    if unknown := [name for name in chosen if name not in possible]:
        raise ConfigError(f"data.{key} names {listed(unknown)}, but the atlas has {', '.join(possible)}")
