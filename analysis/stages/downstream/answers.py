"""The documents of a loaded task: its requests, its right choices, and the answers of the last evaluation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from analysis.stages.downstream.tasks.source import CLASS_FIELD


@dataclass(frozen=True)
class Answers:
    """The requests of a document's choices; only one if it is scored by the likelihood of one text."""

    requests: Sequence[Instance]
    right: frozenset[int]
    """Numbers of the right choices."""


def documents(task: ConfigurableTask) -> Iterator[Answers]:
    """The documents of a task, in their order."""
    groups: dict[int | None, list[Instance]] = {}
    for request in task.instances:
        groups.setdefault(request.doc_id, []).append(request)
    for requests in groups.values():
        right = _right_choices(task, requests[0].doc) if len(requests) > 1 else [0]
        yield Answers(requests, frozenset(right))


def chance_of(task: ConfigurableTask) -> float:
    """Expected accuracy of a guess: the mean of right choices / choices; 0 where all words are possible."""
    shares = [
        len(document.right) / len(document.requests) if len(document.requests) > 1 else 0.0
        for document in documents(task)
    ]
    return sum(shares) / len(shares)


def class_scores(task: ConfigurableTask) -> list[tuple[int, float]]:
    """Class and score of every document in the last evaluation; empty unless the task has two classes.

    Two classes are the same two continuations in every document, scored by their log-odds
    log P(second) − log P(first), or a field that the task's metadata names, scored by the mean
    log-likelihood of the text's characters.
    """
    if field := class_field(task):
        return [
            (int(d.requests[0].doc[field]), _likelihood(d.requests[0]) / len(d.requests[0].arguments[1]))
            for d in documents(task)
        ]
    if is_written(task):
        return []
    every = list(documents(task))
    continuations = {tuple(request.arguments[1] for request in document.requests) for document in every}
    if len(continuations) != 1 or len(set(next(iter(continuations)))) != 2:
        return []
    return [
        (min(document.right), _likelihood(document.requests[1]) - _likelihood(document.requests[0]))
        for document in every
    ]


def log_likelihoods(task: ConfigurableTask) -> dict[str, float]:
    """The mean `log_likelihood` of the right texts of a task without choices, in nats; empty for others."""
    if task.OUTPUT_TYPE != "loglikelihood" or class_field(task):
        return {}
    values = [_likelihood(request) for request in task.instances]
    return {"log_likelihood": math.fsum(values) / len(values)}


def judged(task: ConfigurableTask) -> Iterator[tuple[bool, float]]:
    """Whether each document of the last evaluation is right, and its right choice's log-likelihood in nats.

    Of several right choices it is that of the likeliest. Nothing for texts without choices whose likelihood
    tells a class, of which none is right or wrong, and for answers that the model writes.
    """
    if class_field(task) or is_written(task):
        return
    for document in documents(task):
        values = [_likelihood(request) for request in document.requests]
        if len(values) == 1:
            yield bool(document.requests[0].resps[0][1]), values[0]
        else:
            first = max(range(len(values)), key=values.__getitem__)
            yield first in document.right, max(values[choice] for choice in document.right)


def is_written(task: ConfigurableTask) -> bool:
    """Whether the model writes its answers."""
    return task.OUTPUT_TYPE == "generate_until"


def class_field(task: ConfigurableTask) -> str | None:
    """The field with the class of a document whose text's likelihood is its score; None for other tasks."""
    return (task.config.metadata or {}).get(CLASS_FIELD)


def _likelihood(request: Instance) -> float:
    return float(request.resps[0][0])


def _right_choices(task: ConfigurableTask, document: Mapping[str, Any]) -> set[int]:
    """Numbers of the right choices."""
    gold: Any = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    choices = task.doc_to_choice(document)
    answers = gold if isinstance(gold, list) else [gold]
    return {choices.index(answer) if answer in choices else answer for answer in answers}
