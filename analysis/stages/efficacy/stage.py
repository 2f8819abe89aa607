"""Edit scores: does the model say the new object, in other words too, and is everything else as it was?

CounterFact's measures (Meng et al. 2022, arXiv 2202.05262, section 3.3): with P the per-token geometric mean
of a continuation's probability under teacher forcing,

    rewrite     ES   share of edits with P(new) > P(true) after the edited prompt
    paraphrase  PS   the same after other prompts about the subject
    neighbour   NS   share with P(true) > P(new) after the same relation's prompts of other subjects

and zsRE's (Mitchell et al. 2022, arXiv 2110.11309, as kmeng01/memit scores it): the share of the object's
tokens that are the first choice, after the edited question, its paraphrase, and of the recorded answer after
an unrelated question (locality). All are averaged within a fact, then over facts; `records.py` has them.

Teacher forcing tells the model how long the object is and corrects it after every token, so a model may score
well and say something else (Yang et al. 2025, "The Mirage of Model Editing", arXiv 2502.11177). Beside it
stands what the model writes by itself (`generated`).
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch

from analysis.inference.continuations import continuations
from analysis.inference.scoring import Scorer
from analysis.stages.base import Cadence, Measurement, Observation
from analysis.stages.efficacy.records import Unedited, pairs, prompts, records, summarise
from analysis.stages.efficacy.retention import retention, standing
from editors.data import Fact
from editors.errors import ConfigError, NumericsError
from editors.models.model import Model

SCOPES = ("latest", "seen", "sample", "first")


@dataclass(kw_only=True)
class Efficacy:
    """Scores of the edits in several scopes, by their age, as the model writes; and what is still known.

    Keys, for the scopes `latest`, `seen`, `sample` and `first50`, and the kinds `rewrite`, `paraphrase`,
    `neighbour` (CounterFact) and `locality` (zsRE): `edit/success/<scope>.<kind>` (ES, PS, NS),
    `edit/magnitude/<scope>.<kind>` (EM, PM, NM: mean difference of the two probabilities),
    `edit/accuracy/<scope>.<kind>` (the whole object is the first choice),
    `edit/token_accuracy/<scope>.<kind>`, `edit/invariance/<scope>.locality` (share of the answer's tokens in
    whose place the first choice is the unedited model's), `edit/score/<scope>`, the harmonic mean of the
    three successes, else of zsRE's three token accuracies. `edit/retention/NNNN`: ES by age.
    `edit/generated/seen.exact`, `.contains`: greedy continuations that are the new object, or have it among
    the first tokens. `edit/known/other` and `edit/known/unedited`: accuracy on the true objects of other
    facts of edited subjects, and of facts of subjects that are never edited. At the end the table `records`
    has one row for each edit. An edit that a later one of the same prompt replaced is scored no more. Where
    nothing is edited, what is known is all that there is to score.
    """

    name: str = "efficacy"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    scopes: Sequence[str] = ("latest", "seen", "first")
    """`latest` the last step's facts, `seen` all so far, `sample` of these a draw, `first` the earliest.

    The last measurement scores all of `seen`, asked for or not; before it, `seen` is a draw too where there
    are more than `sample`, or every measurement of a long sequence would cost more than the edits since.
    """
    first: int = 50
    """How many of the earliest edits form the scope `first<n>`, for retention."""
    neighbours: int = 10
    """Neighbour prompts scored for each fact, from the first on."""
    sample: int = 100
    """Facts in a draw at the most, also of those that are not edited; drawn by their ids."""
    generated: int = 50
    """Facts of a draw that are continued freely; 0 switches it off."""
    generated_tokens: int = 10
    """Tokens of a continuation."""
    seed: int = 0
    """Of the draws."""
    batch_tokens: int = 2048
    """Of one forward pass, padding included; larger ones run slower on a CPU."""

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise ConfigError(
                    f"stage.efficacy.scopes has {scope!r}, but a scope is one of {', '.join(SCOPES)}"
                )
        least = {"first": 1, "neighbours": 0, "sample": 1, "generated": 0, "generated_tokens": 1}
        for key, low in least.items():
            if getattr(self, key) < low:
                raise ConfigError(f"stage.efficacy.{key}={getattr(self, key)}, but it is at least {low}")
        self._ranks: dict[str, float] = {}

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Tokenise the planned facts, and ask the unedited model about their locality prompts.

        Raises:
            DataError: for a fact that cannot be scored: too long, or its object shares a token with a prompt.
        """
        self._scorer = Scorer(model, batch_tokens=self.batch_tokens)
        asked = prompts(planned, self.neighbours)
        wanted, rivals = pairs(asked)
        self._scorer.read([*wanted, *rivals])
        locality = [(one.prompt, one.wanted) for one in asked if one.kind == "locality" and one.wanted]
        self._unedited: Unedited = dict(zip(locality, self._scorer.score(locality).choices, strict=True))

    @torch.inference_mode()
    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Scores of every scope that has facts."""
        self._scorer.model = model
        result: Measurement = {}
        edits = standing(observation.seen)
        if edits:
            result |= self._edits(observation, edits)
        if self.generated and edits:
            result |= self._generations(model, self._drawn(list(edits.values()), self.generated))
        for pool in ("other", "unedited"):
            facts = observation.others if pool == "other" else observation.untouched
            known = [fact for fact in self._drawn(facts) if fact.target_true]
            if known:
                result[f"edit/known/{pool}"] = self._known(known)
        return result

    def score(self, facts: Sequence[Fact]) -> pd.DataFrame:
        """One row a fact: its scores with each kind of prompt, and log-probabilities."""
        return records(self._scorer, facts, self.neighbours, self._unedited)

    def _edits(self, observation: Observation, edits: Mapping[int, Fact]) -> Measurement:
        """All scopes together: no fact is scored twice; `edits` are those that stand, by their place."""
        held = list(edits.values())
        scopes = self._scoped(observation, held)
        row = {fact: i for i, fact in enumerate(dict.fromkeys(f for facts in scopes.values() for f in facts))}
        scored = self.score(list(row))
        result: Measurement = {}
        for scope, facts in scopes.items():
            result |= summarise(scored.iloc[[row[fact] for fact in facts]], scope)
        count = len(observation.seen)
        # of the draw alone: what other scopes add is the oldest and the newest
        drawn = set(held if observation.is_last else self._drawn(held)) & set(row)
        aged = {count - place: row[fact] for place, fact in edits.items() if fact in drawn}
        result |= retention(scored.iloc[list(aged.values())], list(aged))
        if observation.is_last:
            table = scored.iloc[[row[fact] for fact in held]].reset_index(drop=True)
            where = {"part": observation.part, "unit": observation.unit, "count": observation.count}
            result["records"] = table.assign(edit=[place + 1 for place in edits], **where)
        return result

    def _scoped(self, observation: Observation, edits: Sequence[Fact]) -> Mapping[str, Sequence[Fact]]:
        """The facts of every scope that has any; `edits` are those that stand."""
        drawn = self._drawn(edits)
        members: dict[str, Sequence[Fact]] = {
            "latest": observation.latest,
            "seen": edits if observation.is_last else drawn,
            "sample": drawn,
            "first": edits[: self.first],
        }
        wanted = [*self.scopes, "seen"] if observation.is_last else self.scopes
        labels = {scope: f"first{self.first}" if scope == "first" else scope for scope in members}
        return {labels[scope]: facts for scope, facts in members.items() if scope in wanted and facts}

    def _generations(self, model: Model, facts: Sequence[Fact]) -> Measurement:
        """How many of the facts the model completes by itself."""
        try:
            written = continuations(model, [fact.statement for fact in facts], tokens=self.generated_tokens)
        except NumericsError:  # a model without numbers writes nothing
            written = [""] * len(facts)
        said = [(text, fact.target_new) for text, fact in zip(written, facts, strict=True)]
        return {
            "edit/generated/seen.exact": sum(is_said(*one) for one in said) / len(said),
            "edit/generated/seen.contains": sum(target in text for text, target in said) / len(said),
        }

    def _known(self, facts: Sequence[Fact]) -> float:
        """Share of facts whose true object is the model's first choice."""
        scores = self._scorer.score([(fact.statement, fact.target_true) for fact in facts])
        return float(scores.exact.double().mean())

    def _drawn(self, facts: Sequence[Fact], most: int | None = None) -> Sequence[Fact]:
        """At most so many facts, else `sample`; a fact's place depends on its id and the seed alone."""
        most = self.sample if most is None else most
        if len(facts) <= most:
            return facts
        return sorted(facts, key=lambda fact: self._rank(fact.id))[:most]

    def _rank(self, identity: str) -> float:
        if identity not in self._ranks:
            self._ranks[identity] = random.Random(f"{self.seed}/{identity}").random()
        return self._ranks[identity]


def is_said(continuation: str, target: str) -> bool:
    """Whether a continuation, up to a sentence end, a line end or its own end, is the target.

    A sentence end inside the target ("St. Louis") belongs to it.
    """
    text = continuation.strip()
    return text.startswith(target) and re.match(r"\s*([.!?\n]|$)", text[len(target) :]) is not None
