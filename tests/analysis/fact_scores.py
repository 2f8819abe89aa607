"""Scores read off whole forward passes, facts to score, and a measurement at the end of a run."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from analysis.stages.base import Observation
from analysis.stages.efficacy.stage import Efficacy
from editors.data import Fact
from editors.models.model import Model
from editors.models.tokenization import tokenize
from tests.tiny import tiny_model


def by_hand(model: Model, prompt: str, continuation: str) -> tuple[float, bool]:
    """Mean log-probability and exactness from a whole forward pass of one row."""
    ids = tokenize(model.tokenizer, f"{prompt} {continuation}").ids
    start = len(tokenize(model.tokenizer, prompt).ids)
    said = model.hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    steps = [(said[i - 1], ids[i]) for i in range(start, len(ids))]
    mean = sum(float(row[token]) for row, token in steps) / len(steps)
    return mean, all(int(row.argmax()) == token for row, token in steps)


def first_choice(model: Model, prompt: str) -> str:
    ids, mask = model.encode([prompt])
    best = model.logits(model.hidden(ids, mask)[0, -1]).argsort(descending=True)
    return next(
        word for i in best if (word := model.tokenizer.decode([int(i)])).strip().isalpha() and word[0] == " "
    )


def at_the_end(facts: Sequence[Fact], **more: Sequence[Fact]) -> Observation:
    return Observation(count=len(facts), total=len(facts), seen=facts, latest=facts, **more)


def measured(facts: Sequence[Fact], **more: Sequence[Fact]) -> dict:
    model = tiny_model()
    stage = Efficacy()
    stage.prepare(model, facts)
    return stage.measure(model, at_the_end(facts, **more))


def question(**changes: object) -> Fact:
    """A fact as zsRE gives it: no true object, no neighbours, an unrelated question."""
    fact = Fact(
        id="q",
        prompt="Where in town is {}?",
        subject="Rob",
        target_new="the river",
        paraphrases=("Rob is where?",),
        locality=(("who walks to town?", "Jacques Attali"), ("what is spoken?", "English")),
    )
    return replace(fact, **changes)
