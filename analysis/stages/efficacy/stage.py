"""Edit scores: does the model say the new object, also after a paraphrase, and is everything else unchanged?

An edit replaces the object of a fact, such as the city in "The Eiffel Tower is in". It succeeds if the model
prefers the new object to the true one (efficacy), also after other wordings (generalisation), while prompts
about other subjects keep their answers (specificity).

CounterFact's measures (Meng et al. 2022, arXiv 2202.05262, section 3.3): with P the per-token geometric mean
of a continuation's probability under teacher forcing,

    rewrite     ES   share of edits with P(new) > P(true) after the edited prompt
    paraphrase  PS   the same after other prompts about the subject
    neighbour   NS   share with P(true) > P(new) after the same relation's prompts of other subjects

and zsRE's (Mitchell et al. 2022, arXiv 2110.11309, as kmeng01/memit scores it): the share of the object's
tokens that are the first choice, after the edited question, its paraphrase, and of the recorded answer after
an unrelated question (locality). Where facts have questions whose answer follows from the edit (portability;
Yao et al. 2023, arXiv 2305.13172, and MQuAKE, arXiv 2305.14795), their answers are scored as well. All are
averaged within a fact, then over facts; `records.py` computes them.

Teacher forcing gives away the length of the object and corrects the model after every token, so a model may
score well and write something else (Yang et al. 2025, "The Mirage of Model Editing", arXiv 2502.11177).
Free continuations are therefore scored as well (`generated`).
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch

from analysis.inference.continuations import free_texts
from analysis.inference.scoring import Scorer
from analysis.stages.base import Cadence, Measurement, Observation, Stage
from analysis.stages.efficacy.records import (
    FirstChoices,
    records,
    scored_prompts,
    summarise,
    target_and_rival_pairs,
)
from analysis.stages.efficacy.retention import retention, unreplaced
from editors.data import Fact, Reader, as_it_is
from editors.errors import ConfigError
from editors.models.model import Model

SCOPES = ("latest", "seen", "sample", "first")


@dataclass(kw_only=True)
class Efficacy(Stage):
    """Scores of the edits in several scopes, by age and as free text; and of facts that are not edited.

    Keys, for the scopes `latest`, `seen`, `sample` and `first50`, and the kinds `rewrite`, `paraphrase`,
    `neighbour` (CounterFact) and `locality` (zsRE): `edit/success/<scope>.<kind>` (ES, PS, NS),
    `edit/magnitude/<scope>.<kind>` (EM, PM, NM: mean difference of the two probabilities),
    `edit/accuracy/<scope>.<kind>` (the whole object is the first choice; also of `portability`),
    `edit/token_accuracy/<scope>.<kind>`, `edit/invariance/<scope>.locality` (share of the answer's tokens in
    whose place the first choice is the unedited model's), `edit/score/<scope>`, the harmonic mean of the
    three successes, else of zsRE's three token accuracies. At the start the scope `before`: a random sample
    of the facts that will be edited. `edit/retention/NNNN`: ES by age.
    `edit/generated/seen.exact`, `.contains`: greedy continuations that are the new object, or have it among
    the first tokens. `edit/known/other` and `edit/known/unedited`: accuracy on the true objects of other
    facts of edited subjects, and of facts of subjects that are never edited. At the end the table `records`
    has one row per edit, with the continuations of before and after. An edit is no longer scored once a later
    one of the same prompt replaced it. If nothing is edited, only `edit/known` is measured.
    """

    name: str = "efficacy"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    scopes: Sequence[str] = ("latest", "seen", "first")
    """`latest`: the facts of the last step; `seen`: all so far; `sample`: a random sample of these; `first`:
    the earliest.

    The last measurement always scores all of `seen`. Before it, `seen` is a random sample too if there are
    more facts than `sample`: otherwise every measurement of a long sequence would cost more than the edits
    since the last one.
    """
    first: int = 50
    """How many of the earliest edits form the scope `first<n>`, for retention."""
    neighbours: int = 10
    """Neighbour prompts scored for each fact, from the first on."""
    sample: int = 100
    """Most facts in a random sample, also of facts that are not edited; they are drawn by their ids."""
    generated: int = 50
    """Most facts that are continued freely; 0 switches it off."""
    generated_tokens: int = 10
    """Tokens of a continuation."""
    seed: int = 0
    """Seed of the random samples."""
    batch_tokens: int = 2048
    """Tokens of one forward pass, padding included; larger passes run slower on a CPU."""

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise ConfigError(
                    f"stage.efficacy.scopes has {scope!r}, but a scope is one of {', '.join(SCOPES)}"
                )
        self.check_minimums(first=1, neighbours=0, sample=1, generated=0, generated_tokens=1)
        self._ranks: dict[str, float] = {}

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Tokenise the planned facts, and record the unedited model's first choices for locality prompts.

        Raises:
            DataError: for a fact that cannot be scored: too long, or its object shares a token with a prompt.
        """
        self._scorer = Scorer(model, batch_tokens=self.batch_tokens)
        prompts = scored_prompts(planned, self.neighbours)
        targets, rivals = target_and_rival_pairs(prompts)
        self._scorer.read([*targets, *rivals])
        locality = [(p.prompt, p.target) for p in prompts if p.kind == "locality" and p.target]
        self._unedited: FirstChoices = dict(zip(locality, self._scorer.score(locality).choices, strict=True))
        self._before = self._texts(model, self._asked(planned), as_it_is)
        self._planned = self._sample(planned)

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Scores of every scope that has facts."""
        self._scorer.model, self._scorer.reader = model, observation.reader
        result: Measurement = {}
        edits = unreplaced(observation.seen)
        if edits:
            result |= self._edit_scores(observation, edits)
        elif observation.is_unedited and self._planned:
            result |= summarise(self.score(self._planned), "before")
        if asked := self._asked(list(edits.values())):
            after = self._texts(model, asked, observation.reader)
            result |= _generation_scores(after)
            if isinstance(table := result.get("records"), pd.DataFrame):
                before, written = (
                    pd.Series([texts.get(fact) for fact in edits.values()], table.index, dtype="str")
                    for texts in (self._before, after)
                )
                result["records"] = table.assign(text_before=before, text_after=written)
        for pool in ("other", "unedited"):
            facts = observation.others if pool == "other" else observation.untouched
            with_object = [fact for fact in self._sample(facts) if fact.target_true]
            if with_object:
                result[f"edit/known/{pool}"] = self._known_share(with_object)
        return result

    def score(self, facts: Sequence[Fact]) -> pd.DataFrame:
        """One row per fact: its scores with each kind of prompt, and log-probabilities."""
        return records(self._scorer, facts, self.neighbours, self._unedited)

    def _edit_scores(self, observation: Observation, edits: Mapping[int, Fact]) -> Measurement:
        """Scores of all scopes together, so that no fact is scored twice.

        `edits` are the unreplaced ones by their place in the sequence.
        """
        facts = list(edits.values())
        scopes = self._facts_by_scope(observation, facts)
        row = {fact: i for i, fact in enumerate(dict.fromkeys(f for scope in scopes.values() for f in scope))}
        table = self.score(list(row))
        result: Measurement = {}
        for scope, members in scopes.items():
            result |= summarise(table.iloc[[row[fact] for fact in members]], scope)
        count = len(observation.seen)
        # of the random sample alone: the other scopes would add the oldest and the newest edits
        sample = set(facts if observation.is_last else self._sample(facts)) & set(row)
        row_of_age = {count - place: row[fact] for place, fact in edits.items() if fact in sample}
        result |= retention(table.iloc[list(row_of_age.values())], list(row_of_age))
        if observation.is_last:
            whole = table.iloc[[row[fact] for fact in facts]].reset_index(drop=True)
            moment = {"part": observation.part, "unit": observation.unit, "count": observation.count}
            result["records"] = whole.assign(edit=[place + 1 for place in edits], **moment)
        return result

    def _facts_by_scope(
        self, observation: Observation, edits: Sequence[Fact]
    ) -> Mapping[str, Sequence[Fact]]:
        """The facts of every scope that has any, by the scope's label in keys."""
        sample = self._sample(edits)
        members: dict[str, Sequence[Fact]] = {
            "latest": observation.latest,
            "seen": edits if observation.is_last else sample,
            "sample": sample,
            "first": edits[: self.first],
        }
        scopes = [*self.scopes, "seen"] if observation.is_last else self.scopes
        labels = {scope: f"first{self.first}" if scope == "first" else scope for scope in members}
        return {labels[scope]: facts for scope, facts in members.items() if scope in scopes and facts}

    def _asked(self, facts: Sequence[Fact]) -> Sequence[Fact]:
        """The facts that are continued freely."""
        return self._sample(facts, self.generated) if self.generated else []

    def _texts(self, model: Model, facts: Sequence[Fact], reader: Reader) -> dict[Fact, str]:
        """What the model writes after the prompt of each fact."""
        prompts = [reader(fact.statement) for fact in facts]
        return dict(zip(facts, free_texts(model, prompts, tokens=self.generated_tokens), strict=True))

    def _known_share(self, facts: Sequence[Fact]) -> float:
        """Share of facts whose true object is the model's first choice."""
        scores = self._scorer.score([(fact.statement, fact.target_true) for fact in facts])
        return float(scores.exact.double().mean())

    def _sample(self, facts: Sequence[Fact], most: int | None = None) -> Sequence[Fact]:
        """At most `most` facts (by default `sample`), drawn by their ids and the seed.

        A longer sequence keeps the facts of a shorter one unless others rank before them.
        """
        most = self.sample if most is None else most
        if len(facts) <= most:
            return facts
        return sorted(facts, key=lambda fact: self._rank(fact.id))[:most]

    def _rank(self, identity: str) -> float:
        """A random number in 0..1 that depends on the id and the seed alone."""
        if identity not in self._ranks:
            self._ranks[identity] = random.Random(f"{self.seed}/{identity}").random()
        return self._ranks[identity]


def _generation_scores(texts: Mapping[Fact, str]) -> Measurement:
    """Shares of the facts that the model completes in free text."""
    pairs = [(text, fact.target_new) for fact, text in texts.items()]
    return {
        "edit/generated/seen.exact": sum(is_target(*pair) for pair in pairs) / len(pairs),
        "edit/generated/seen.contains": sum(target in text for text, target in pairs) / len(pairs),
    }


def is_target(continuation: str, target: str) -> bool:
    """Whether a continuation, up to a sentence end, a line end or its own end, is the target.

    A sentence end inside the target ("St. Louis") belongs to it.
    """
    text = continuation.strip()
    return text.startswith(target) and re.match(r"\s*([.!?\n]|$)", text[len(target) :]) is not None
