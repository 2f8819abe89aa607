"""Edit scores: does the model say the new object, in other words too, and is everything else as it was?

CounterFact's measures (Meng et al. 2022, arXiv 2202.05262, section 3.3). With P the per-token geometric
mean of a continuation's probability under teacher forcing:

    rewrite     ES   share of edits with P(new) > P(true) after the edited prompt
    paraphrase  PS   the same after other prompts about the subject
    neighbour   NS   share with P(true) > P(new) after the same relation's prompts of other subjects

each as `success` (above) and as `accuracy` (every token of the wanted object is the first choice), first
averaged within a fact, then over facts. `score` is the harmonic mean of the three successes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from analysis.scoring import Pair, Scorer, Scores
from analysis.stage import Cadence, Measurement, Observation
from editors.model.facts import Fact
from editors.model.model import Model

KINDS = ("rewrite", "paraphrase", "neighbour")
MEASURED = ["success", "accuracy", "log_p_new", "log_p_true"]

Asked = tuple[int, str, str]
"""Index of the fact, kind of the prompt, prompt."""


@dataclass(kw_only=True)
class Efficacy:
    """Scores of the edits, over the latest batch, all so far, and the first ones; and what is still known.

    Keys: `edit/success/<scope>.<kind>`, `edit/accuracy/<scope>.<kind>`, `edit/score/<scope>` for the scopes
    `latest`, `seen` and `first50`; `edit/known/other` and `edit/known/unedited`, the accuracy on the true
    objects of other facts of edited subjects, and of facts of subjects that are never edited. At the end
    the table `records` has one row for each edit.
    """

    name: str = "efficacy"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=50))
    first: int = 50
    """How many of the earliest edits form the scope `first<n>`, for retention."""
    neighbours: int = 10
    """Neighbour prompts scored for each fact, from the first on."""
    sample: int = 500
    """Facts scored in each scope at the most, drawn by their ids; the last measurement scores all edits."""
    seed: int = 0
    """Of the draw."""
    batch_tokens: int = 8192

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Start with nothing tokenised."""
        self._scorer = Scorer(model, batch_tokens=self.batch_tokens)

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Scores of every scope that has facts."""
        scopes = {
            "latest": observation.latest,
            "seen": observation.seen if observation.is_last else self._drawn(observation.seen),
            f"first{self.first}": observation.seen[: self.first],
        }
        pools = {"other": self._drawn(observation.others), "unedited": self._drawn(observation.untouched)}
        result: Measurement = {}
        for scope, facts in scopes.items():
            if facts:
                records = self.score(facts)
                result |= summarise(records, scope)
                if scope == "seen" and observation.is_last:
                    result["records"] = records.assign(edit=range(1, len(records) + 1))
        for pool, facts in pools.items():
            known = [fact for fact in facts if fact.target_true]
            if known:
                result[f"edit/known/{pool}"] = self._known(known)
        return result

    def score(self, facts: Sequence[Fact]) -> pd.DataFrame:
        """One row a fact: success, accuracy and log-probabilities of each kind of prompt."""
        asked = [(i, kind, prompt) for i, f in enumerate(facts) for kind, prompt in self._prompts(f)]
        new = self._scorer.score([(prompt, facts[i].target_new) for i, _, prompt in asked])
        has_true = pd.Series([bool(facts[i].target_true) for i, _, _ in asked])
        prompts = _prompt_table(asked, new, self._true_scores(facts, asked), has_true)
        means = prompts.pivot_table(index="fact", columns="kind", values=MEASURED, aggfunc="mean")
        means.columns = [f"{quantity}.{kind}" for quantity, kind in means.columns]
        described = pd.DataFrame([_described(fact) for fact in facts])
        return described.join(means)

    def _prompts(self, fact: Fact) -> list[Pair]:
        """Every prompt of a fact with its kind."""
        return [
            ("rewrite", fact.statement),
            *(("paraphrase", prompt) for prompt in fact.paraphrases),
            *(("neighbour", prompt) for prompt in fact.neighbours[: self.neighbours]),
        ]

    def _true_scores(self, facts: Sequence[Fact], asked: Sequence[Asked]) -> Scores:
        """Scores of the true objects, NaN for facts that come without one."""
        has = torch.tensor([bool(facts[i].target_true) for i, _, _ in asked], dtype=torch.bool)
        pairs = [
            (prompt, facts[i].target_true) for (i, _, prompt), there in zip(asked, has, strict=True) if there
        ]
        scored = self._scorer.score(pairs)
        likelihood = torch.full(has.shape, float("nan"), dtype=torch.float64)
        exact = torch.zeros_like(has)
        return Scores(
            likelihood.masked_scatter(has, scored.log_probability), exact.masked_scatter(has, scored.exact)
        )

    def _known(self, facts: Sequence[Fact]) -> float:
        """Share of facts whose true object is the model's first choice."""
        scores = self._scorer.score([(fact.statement, fact.target_true) for fact in facts])
        return float(scores.exact.double().mean())

    def _drawn(self, facts: Sequence[Fact]) -> Sequence[Fact]:
        """At most `sample` facts; a fact's place in the draw depends on its id and the seed alone."""
        if len(facts) <= self.sample:
            return facts
        ranked = sorted(facts, key=lambda fact: random.Random(f"{self.seed}/{fact.id}").random())
        return ranked[: self.sample]


def summarise(records: pd.DataFrame, scope: str) -> Measurement:
    """Means over facts, and the harmonic mean of the three successes where all three are there."""
    result: Measurement = {}
    for quantity in ("success", "accuracy"):
        for kind in KINDS:
            values = records.filter([f"{quantity}.{kind}"]).to_numpy(dtype=float)
            if not np.isnan(values).all():
                result[f"edit/{quantity}/{scope}.{kind}"] = float(np.nanmean(values))
    successes = [result.get(f"edit/success/{scope}.{kind}") for kind in KINDS]
    if all(isinstance(value, float) for value in successes):
        result[f"edit/score/{scope}"] = _harmonic_mean([float(v) for v in successes if isinstance(v, float)])
    return result


def _harmonic_mean(values: Sequence[float]) -> float:
    """n / Σ 1/x, and 0 where any value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _prompt_table(asked: Sequence[Asked], new: Scores, true: Scores, has_true: pd.Series) -> pd.DataFrame:
    """One row a prompt; the wanted object is the new one, but for neighbours the true one.

    A likelihood that is no number counts as a failure of the model; only what a fact without a true object
    cannot tell has no value.
    """
    table = pd.DataFrame(asked, columns=["fact", "kind", "prompt"])
    neighbour = table["kind"] == "neighbour"
    table["log_p_new"], table["log_p_true"] = new.log_probability.numpy(), true.log_probability.numpy()
    margin = table["log_p_new"] - table["log_p_true"]
    table["success"] = (margin.where(~neighbour, -margin) > 0).astype(float).where(has_true)
    exact_new = pd.Series(new.exact.numpy()).astype(float)
    exact_true = pd.Series(true.exact.numpy()).astype(float).where(has_true)
    table["accuracy"] = exact_new.where(~neighbour, exact_true)
    return table


def _described(fact: Fact) -> dict[str, str]:
    return {
        "id": fact.id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "relation": fact.relation,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
    }
