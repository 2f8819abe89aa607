"""Which facts a model knows: the object is its first choice after statement and paraphrases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.inference.scoring import Scorer
from editors.data import Fact
from editors.models.model import Model
from editors.models.readings import edited, faults, scored
from editors.phases import Report, silent


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a model answers to one fact."""

    fact: Fact
    fault: str = ""
    """Why the model cannot read the fact; empty if it can. Then nothing below was measured."""
    known: bool | None = None
    """Whether every token of the true object is the first choice after the statement and every paraphrase.

    None if the fact has no true object or cannot be read."""
    answers_new: bool | None = None
    """Whether every token of the new object is the first choice after the statement; None if unreadable."""
    prefers_new: bool | None = None
    """Whether the new object is likelier than the true one, by the mean of log P of a token: a success (ES)
    without any edit. None if the fact has no true object or cannot be read."""


def knowledge(
    model: Model, facts: Sequence[Fact], *, batch_tokens: int = 8192, report: Report = silent
) -> list[Knowledge]:
    """What the model answers to each fact, in the order of the facts.

    A fact with a prompt that the model cannot read (`editors/models/readings.py`) is reported, not raised.
    """
    readings = [[*edited(fact, ("{}",)), *scored(fact)] for fact in facts]
    problems = faults(model, readings)
    readable = [fact for fact, fault in zip(facts, problems, strict=True) if not fault]
    pairs = [pair for fact in readable for pair in (*_true_pairs(fact), _new_pair(fact))]
    scores = Scorer(model, batch_tokens=batch_tokens).score(pairs, report)
    exact = dict(zip(pairs, scores.exact.tolist(), strict=True))
    log_p = dict(zip(pairs, scores.log_probability.tolist(), strict=True))
    return [
        Knowledge(fact=fact, fault=fault)
        if fault
        else Knowledge(
            fact=fact,
            known=all(exact[pair] for pair in _true_pairs(fact)) if fact.target_true else None,
            answers_new=exact[_new_pair(fact)],
            prefers_new=log_p[_new_pair(fact)] > log_p[_true_pairs(fact)[0]] if fact.target_true else None,
        )
        for fact, fault in zip(facts, problems, strict=True)
    ]


def rates(answers: Iterable[Knowledge]) -> dict[str, tuple[int, int]]:
    """For each relation, the number of known facts and of facts with a true object that could be read."""
    counts: dict[str, tuple[int, int]] = {}
    for answer in answers:
        if answer.known is not None:
            known, total = counts.get(answer.fact.relation, (0, 0))
            counts[answer.fact.relation] = known + answer.known, total + 1
    return counts


def _true_pairs(fact: Fact) -> list[tuple[str, str]]:
    prompts = (fact.statement, *fact.paraphrases) if fact.target_true else ()
    return [(prompt, fact.target_true) for prompt in prompts]


def _new_pair(fact: Fact) -> tuple[str, str]:
    return fact.statement, fact.target_new
