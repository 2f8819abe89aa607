"""What each fact scores: a table with a row a fact, and the means that are logged.

`wanted` is the object that should follow a prompt: the new one after the edited prompt and its paraphrases,
the true one after neighbours, the recorded answer after locality prompts; `rival` is the other one of new and
true. With P the per-token geometric mean of an object's probability under teacher forcing:

    success          P(wanted) > P(rival), strict
    magnitude        P(wanted) − P(rival)
    accuracy         every token of the wanted object is the first choice
    token_accuracy   share of its tokens that are
    invariance       share of its tokens in whose place the first choice is the unedited model's

A likelihood that is no number is a failure of the model and counts as P = 0; only what a fact does not come
with, a true object or a kind of prompt, has no value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.inference.scoring import Ids, Pair, Scorer, Scores
from analysis.stages.base import Measurement
from editors.data import Fact

KINDS = ("rewrite", "paraphrase", "neighbour")
"""CounterFact's prompts."""
QUESTIONS = ("rewrite", "paraphrase", "locality")
"""zsRE's."""
REPORTED = {
    "success": KINDS,
    "magnitude": KINDS,
    "accuracy": KINDS,
    "token_accuracy": QUESTIONS,
    "invariance": ("locality",),
}
MEASURED = [*REPORTED, "log_p_new", "log_p_true"]

Unedited = Mapping[Pair, Ids]
"""First choices of the unedited model."""


@dataclass(frozen=True)
class Asked:
    """One prompt of a fact."""

    fact: int
    """Index of the fact."""
    kind: str
    prompt: str
    wanted: str
    rival: str = ""
    """Either is empty where the fact comes without it."""


def prompts(facts: Sequence[Fact], neighbours: int) -> list[Asked]:
    """Every prompt of every fact, of the neighbours the first ones."""
    asked: list[Asked] = []
    for i, fact in enumerate(facts):
        new, true = fact.target_new, fact.target_true
        asked.append(Asked(i, "rewrite", fact.statement, new, true))
        asked += [Asked(i, "paraphrase", prompt, new, true) for prompt in fact.paraphrases]
        asked += [Asked(i, "neighbour", prompt, true, new) for prompt in fact.neighbours[:neighbours]]
        asked += [Asked(i, "locality", prompt, answer) for prompt, answer in fact.locality]
    return asked


def pairs(asked: Sequence[Asked]) -> tuple[list[Pair], list[Pair]]:
    """Prompts with their wanted objects, and with their rivals, where there are any."""
    wanted = [(one.prompt, one.wanted) for one in asked if one.wanted]
    return wanted, [(one.prompt, one.rival) for one in asked if one.rival]


def records(scorer: Scorer, facts: Sequence[Fact], neighbours: int, unedited: Unedited) -> pd.DataFrame:
    """One row a fact: what it is, and the mean of each quantity over its prompts of each kind."""
    asked = prompts(facts, neighbours)
    wanted, rivals = pairs(asked)
    scores = scorer.score([*wanted, *rivals])
    table = _prompt_table(asked, scores, unedited)
    means = table.pivot_table(index="fact", columns="kind", values=MEASURED, aggfunc="mean")
    means.columns = [f"{quantity}.{kind}" for quantity, kind in means.columns]
    described = pd.DataFrame([_described(fact) for fact in facts])
    return described.join(means)


def _prompt_table(asked: Sequence[Asked], scores: Scores, unedited: Unedited) -> pd.DataFrame:
    """One row a prompt; `scores` are of the wanted objects, then of the rivals."""
    table = pd.DataFrame({"fact": [one.fact for one in asked], "kind": [one.kind for one in asked]})
    wants, has_rival = (np.array([bool(getattr(one, name)) for one in asked]) for name in ("wanted", "rival"))
    count = int(wants.sum())
    log_p = scores.log_probability.numpy()
    log_wanted, log_rival = _spread(log_p[:count], wants), _spread(log_p[count:], has_rival)
    both = wants & has_rival
    p_wanted, p_rival = (np.nan_to_num(np.exp(values)) for values in (log_wanted, log_rival))
    table["success"] = np.where(both, log_wanted > log_rival, np.nan)
    table["magnitude"] = np.where(both, p_wanted - p_rival, np.nan)
    table["accuracy"] = _spread(scores.exact.numpy()[:count], wants)
    table["token_accuracy"] = _spread(scores.correct.numpy()[:count], wants)
    agreement = [
        _agreement(one, now, unedited) for one, now in zip(_wanting(asked), scores.choices, strict=False)
    ]
    table["invariance"] = _spread(np.array(agreement, dtype=float), wants)
    of_true = np.array([one.kind in ("neighbour", "locality") for one in asked])
    table["log_p_new"] = np.where(of_true, log_rival, log_wanted)
    table["log_p_true"] = np.where(of_true, log_wanted, log_rival)
    return table


def _wanting(asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if one.wanted]


def _agreement(one: Asked, now: Ids, unedited: Unedited) -> float:
    """Share of the first choices that are still what they were; no number where that is not known."""
    before = unedited.get((one.prompt, one.wanted))
    if before is None:
        return float("nan")
    return sum(a == b for a, b in zip(now, before, strict=True)) / len(before)


def _spread(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values at the places where there is one, no number elsewhere."""
    spread = np.full(len(there), np.nan)
    spread[there] = values
    return spread


def summarise(table: pd.DataFrame, scope: str) -> Measurement:
    """Means over facts, and the harmonic mean of three of them.

    These are the three successes where there are all of them (CounterFact), else the token accuracies after
    the edited prompt, paraphrases and locality prompts (zsRE).
    """
    result: Measurement = {}
    for quantity, kinds in REPORTED.items():
        for kind in kinds:
            column = f"{quantity}.{kind}"
            values = table[column].to_numpy(dtype=float) if column in table else np.empty(0)
            if not np.isnan(values).all():
                result[f"edit/{quantity}/{scope}.{kind}"] = float(np.nanmean(values))
    for quantity, kinds in (("success", KINDS), ("token_accuracy", QUESTIONS)):
        means = [result.get(f"edit/{quantity}/{scope}.{kind}") for kind in kinds]
        numbers = [float(value) for value in means if isinstance(value, float)]
        if len(numbers) == len(kinds):
            return result | {f"edit/score/{scope}": _harmonic_mean(numbers)}
    return result


def _harmonic_mean(values: Sequence[float]) -> float:
    """n / Σ 1/x, and 0 where any value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _described(fact: Fact) -> dict[str, str]:
    return {
        "id": fact.id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "relation": fact.relation,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
    }
