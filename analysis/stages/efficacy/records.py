"""Scores of each fact: a table with one row per fact, and the means that are logged.

`target` is the object that should follow a prompt: the new one after the edited prompt and its paraphrases,
the true one after neighbours, the recorded answer after locality and portability prompts; `rival` is the
other one of new and true. With P the per-token geometric mean of an object's probability under teacher
forcing:

    success          P(target) > P(rival), strict
    magnitude        P(target) − P(rival)
    accuracy         every token of the target is the first choice
    token_accuracy   share of its tokens that are
    invariance       share of its tokens in whose place the first choice is the unedited model's

A likelihood that is NaN is a failure of the model and counts as P = 0. Only quantities that a fact does not
have, for want of a true object or of a kind of prompt, have no value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.inference.scoring import Ids, Pair, Scorer, Scores
from analysis.stages.base import Measurement
from editors.data import Fact

KINDS = ("rewrite", "paraphrase", "neighbour")
"""Kinds of CounterFact's prompts."""
QUESTIONS = ("rewrite", "paraphrase", "locality")
"""Kinds of zsRE's prompts."""
PORTABILITY = "portability"
"""The kind of prompts whose answer follows from the edit."""
REPORTED = {
    "success": KINDS,
    "magnitude": KINDS,
    "accuracy": (*KINDS, PORTABILITY),
    "token_accuracy": (*QUESTIONS, PORTABILITY),
    "invariance": ("locality",),
}
"""Kinds of prompts for which each quantity is logged."""
MEASURED = [*REPORTED, "log_p_new", "log_p_true"]

FirstChoices = Mapping[Pair, Ids]
"""First choices of the unedited model in place of a continuation's tokens."""


@dataclass(frozen=True)
class ScoredPrompt:
    """One prompt of a fact, and the objects that are scored after it."""

    fact: int
    """Index of the fact."""
    kind: str
    prompt: str
    target: str
    """The object that should follow; empty if the fact has none."""
    rival: str = ""
    """The object that should not follow; empty if the fact has none."""


def scored_prompts(facts: Sequence[Fact], neighbours: int) -> list[ScoredPrompt]:
    """Every prompt of every fact; only the first `neighbours` of its neighbour prompts."""
    prompts: list[ScoredPrompt] = []
    for i, fact in enumerate(facts):
        new, true = fact.target_new, fact.target_true
        prompts.append(ScoredPrompt(i, "rewrite", fact.statement, new, true))
        prompts += [ScoredPrompt(i, "paraphrase", text, new, true) for text in fact.paraphrases]
        prompts += [ScoredPrompt(i, "neighbour", text, true, new) for text in fact.neighbours[:neighbours]]
        prompts += [ScoredPrompt(i, "locality", text, answer) for text, answer in fact.locality]
        prompts += [ScoredPrompt(i, PORTABILITY, text, answer) for text, answer in fact.portability]
    return prompts


def target_and_rival_pairs(prompts: Sequence[ScoredPrompt]) -> tuple[list[Pair], list[Pair]]:
    """Prompts with their targets, and prompts with their rivals; without those that have none."""
    targets = [(prompt.prompt, prompt.target) for prompt in prompts if prompt.target]
    return targets, [(prompt.prompt, prompt.rival) for prompt in prompts if prompt.rival]


def records(scorer: Scorer, facts: Sequence[Fact], neighbours: int, unedited: FirstChoices) -> pd.DataFrame:
    """One row per fact: its texts, and the mean of each quantity over its prompts of each kind."""
    prompts = scored_prompts(facts, neighbours)
    targets, rivals = target_and_rival_pairs(prompts)
    scores = scorer.score([*targets, *rivals])
    table = _prompt_table(prompts, scores, unedited)
    means = table.pivot_table(index="fact", columns="kind", values=MEASURED, aggfunc="mean")
    means.columns = [f"{quantity}.{kind}" for quantity, kind in means.columns]
    texts = pd.DataFrame([_texts(fact) for fact in facts])
    return texts.join(means)


def _prompt_table(prompts: Sequence[ScoredPrompt], scores: Scores, unedited: FirstChoices) -> pd.DataFrame:
    """One row per prompt; `scores` are of the targets, then of the rivals."""
    table = pd.DataFrame({"fact": [p.fact for p in prompts], "kind": [p.kind for p in prompts]})
    has_target = np.array([bool(prompt.target) for prompt in prompts])
    has_rival = np.array([bool(prompt.rival) for prompt in prompts])
    count = int(has_target.sum())
    log_p = scores.log_probability.numpy()
    log_target, log_rival = _spread(log_p[:count], has_target), _spread(log_p[count:], has_rival)
    both = has_target & has_rival
    p_target, p_rival = (np.nan_to_num(np.exp(values)) for values in (log_target, log_rival))
    table["success"] = np.where(both, log_target > log_rival, np.nan)
    table["magnitude"] = np.where(both, p_target - p_rival, np.nan)
    table["accuracy"] = _spread(scores.exact.numpy()[:count], has_target)
    table["token_accuracy"] = _spread(scores.correct.numpy()[:count], has_target)
    with_target = [prompt for prompt in prompts if prompt.target]
    agreement = [
        _agreement(prompt, choices, unedited)
        for prompt, choices in zip(with_target, scores.choices, strict=False)
    ]
    table["invariance"] = _spread(np.array(agreement, dtype=float), has_target)
    targets_true = np.array([prompt.kind in ("neighbour", "locality") for prompt in prompts])
    table["log_p_new"] = np.where(targets_true, log_rival, log_target)
    table["log_p_true"] = np.where(targets_true, log_target, log_rival)
    return table


def _agreement(prompt: ScoredPrompt, choices: Ids, unedited: FirstChoices) -> float:
    """Share of the first choices that equal the unedited model's; NaN if these are not known."""
    before = unedited.get((prompt.prompt, prompt.target))
    if before is None:
        return float("nan")
    return sum(a == b for a, b in zip(choices, before, strict=True)) / len(before)


def _spread(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values at the places of a mask, NaN elsewhere."""
    spread = np.full(len(mask), np.nan)
    spread[mask] = values
    return spread


def summarise(table: pd.DataFrame, scope: str) -> Measurement:
    """Means over facts, and the harmonic mean of three of them.

    These are the three successes if there are all of them (CounterFact), else the token accuracies after the
    edited prompt, paraphrases and locality prompts (zsRE). Keys: `edit/<quantity>/<scope>.<kind>` and
    `edit/score/<scope>`.
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


def unmeasured(facts: Sequence[Fact], neighbours: int) -> list[str]:
    """Kinds of prompts without which facts have no `edit/score` (`summarise`); empty if they have one."""
    prompts = scored_prompts(facts, neighbours)
    compared = {prompt.kind for prompt in prompts if prompt.target and prompt.rival}
    answered = {prompt.kind for prompt in prompts if prompt.target}
    return [] if answered.issuperset(QUESTIONS) else [kind for kind in KINDS if kind not in compared]


def _harmonic_mean(values: Sequence[float]) -> float:
    """n / Σ 1/x, and 0 if any value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _texts(fact: Fact) -> dict[str, str]:
    return {
        "id": fact.id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "relation": fact.relation,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
    }
