"""The two losses of MEND's training: the prompts give the new object, and unrelated texts stay as they were.

Both are computed from one pass with the edited weights, as functions of the hypernetwork:
  edit loss      mean of −log P(token) over the new object's tokens, mean over statement and a paraphrase,
  locality loss  KL(before ‖ after), mean over the positions of an unrelated text, mean over texts.

Deviation from the published code, which uses the paraphrase alone: with few facts the statement itself then
ends up less likely than its paraphrases.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from editors.data import SLOT, Fact
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.updates import WeightUpdate

LogProbabilities = Float[Tensor, "_ vocabulary"]
"""Log-probabilities of the next token at the positions of one query."""


@dataclass(frozen=True)
class Query:
    """A tokenised text, and the positions at which the model's next token is read."""

    ids: tuple[int, ...]
    positions: range

    @property
    def next_tokens(self) -> list[int]:
        """The tokens that follow the positions."""
        return [self.ids[position + 1] for position in self.positions]


def continuation_query(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Query:
    """A prompt and its continuation, read where the tokens of the continuation are predicted."""
    tokens = tokenize(tokenizer, f"{prompt} {answer}")
    return Query(tokens.ids, range(tokens.first_after(len(prompt)) - 1, len(tokens.ids) - 1))


def prompt_query(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Query:
    """A prompt, read at its end."""
    ids = tokenize(tokenizer, prompt).ids
    return Query(ids, range(len(ids) - 1, len(ids)))


def text_query(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> Query:
    """The first tokens of a running text, read at every position."""
    ids = tokenize(tokenizer, text).ids[:tokens]
    return Query(ids, range(len(ids)))


def log_probabilities(model: Model, queries: Sequence[Query], update: WeightUpdate) -> list[LogProbabilities]:
    """Predictions of the model with the update at the positions of every query; differentiable by it."""
    ids, mask = (value.to(model.device) for value in pad([query.ids for query in queries]))
    hidden = model.hidden_after(update, ids, mask)
    row = [i for i, query in enumerate(queries) for _ in query.positions]
    column = [position for query in queries for position in query.positions]
    predictions = model.logits(hidden[row, column]).log_softmax(dim=-1)
    return list(predictions.split([len(query.positions) for query in queries]))


def nll(query: Query, predictions: LogProbabilities) -> Float[Tensor, ""]:
    """Mean of −log P over the tokens that follow the query's positions."""
    targets = torch.tensor(query.next_tokens, device=predictions.device)
    return -predictions.gather(1, targets[:, None]).mean()


def divergence(before: LogProbabilities, after: LogProbabilities) -> Float[Tensor, ""]:
    """KL(before ‖ after) in nats, mean over positions."""
    return (before.exp() * (before - after)).sum(dim=-1).mean()


def edit_queries(tokenizer: PreTrainedTokenizerBase, fact: Fact, rng: random.Random) -> list[Query]:
    """The new object after the fact's statement, and after one of its paraphrases if it has any."""
    prompts = [fact.statement, *([rng.choice(fact.paraphrases)] if fact.paraphrases else [])]
    return [continuation_query(tokenizer, prompt, fact.target_new) for prompt in prompts]


@dataclass(frozen=True, kw_only=True)
class UnrelatedTexts:
    """The source of the queries whose predictions an edit should leave unchanged."""

    facts: Sequence[Fact]
    texts: Sequence[str] = ()
    """Running texts; without any, statements of facts about other subjects stand in."""
    tokens: int = 64
    """Largest number of tokens of a running text."""

    def draw(
        self, tokenizer: PreTrainedTokenizerBase, edited: Sequence[Fact], count: int, rng: random.Random
    ) -> list[Query]:
        """Random queries: up to half near the edited facts, the others far away.

        Near queries are the facts' neighbours, their locality prompts, and as many of their own prompts about
        other subjects. A fact has few neighbours, always the same: alone they could be learnt by heart.
        """
        near = [prompt_query(tokenizer, prompt) for fact in edited for prompt in fact.neighbours]
        near += [prompt_query(tokenizer, prompt) for fact in edited for prompt in self._elsewhere(fact, rng)]
        near += [continuation_query(tokenizer, *pair) for fact in edited for pair in fact.locality]
        queries = rng.sample(near, min(len(near), count // 2))
        return queries + [self._far(tokenizer, edited, rng) for _ in range(count - len(queries))]

    @cached_property
    def subjects(self) -> dict[str, list[str]]:
        """The subjects of each named relation, in the order of the facts."""
        subjects: dict[str, dict[str, None]] = {}
        for fact in self.facts:
            if fact.relation:
                subjects.setdefault(fact.relation, {})[fact.subject] = None
        return {relation: list(names) for relation, names in subjects.items()}

    def _elsewhere(self, fact: Fact, rng: random.Random) -> list[str]:
        """The fact's prompt about other subjects of its relation, as many as it has neighbours."""
        others = self.subjects.get(fact.relation, [])
        sample = rng.sample(others, min(len(others), len(fact.neighbours)))
        return [fact.prompt.replace(SLOT, other) for other in sample if other != fact.subject]

    def _far(self, tokenizer: PreTrainedTokenizerBase, edited: Sequence[Fact], rng: random.Random) -> Query:
        if self.texts:
            return text_query(tokenizer, rng.choice(self.texts), self.tokens)
        subjects = {fact.subject for fact in edited}
        while (other := rng.choice(self.facts)).subject in subjects:
            continue
        return prompt_query(tokenizer, other.statement)


@dataclass(frozen=True)
class EditTrial:
    """One edit of a training step, and the queries that judge it."""

    facts: Sequence[Fact]
    edited: Sequence[Query]
    """Queries of the new objects; the first is the first fact's statement."""
    unrelated: Sequence[Query]
    """Queries whose predictions should stay."""
    rival: Query | None = None
    """The true object after the statement; only in a validation."""

    @property
    def queries(self) -> list[Query]:
        """All queries after the edit."""
        return [*self.edited, *self.unrelated, *([self.rival] if self.rival else [])]


@dataclass(frozen=True)
class TrialResult:
    """The model's predictions for the queries of a trial."""

    trial: EditTrial
    before: Sequence[LogProbabilities]
    """Before the edit, for the unrelated queries."""
    after: Sequence[LogProbabilities]
    """After the edit, for all queries."""

    def losses(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Edit and locality loss."""
        pairs = zip(self.trial.edited, self.after, strict=False)
        edit = [nll(query, predictions) for query, predictions in pairs]
        locality = [divergence(before, after) for before, after in self._unrelated()]
        return torch.stack(edit).mean(), torch.stack(locality).mean()

    def figures(self) -> dict[str, float]:
        """The figures of a validation, for the first fact of the trial."""
        edit, locality = self.losses()
        statement, predictions = self.trial.edited[0], self.after[0]
        accuracy = float(predictions.argmax(dim=-1).tolist() == statement.next_tokens)
        rival = self.trial.rival
        unchanged = [float(torch.equal(b.argmax(dim=-1), a.argmax(dim=-1))) for b, a in self._unrelated()]
        better = nll(statement, predictions) < nll(rival, self.after[-1]) if rival else accuracy
        return {
            "edit_loss": float(edit),
            "locality_loss": float(locality),
            "success": float(better),
            "accuracy": accuracy,
            "locality": sum(unchanged) / len(unchanged),
        }

    def _unrelated(self) -> list[tuple[LogProbabilities, LogProbabilities]]:
        """Predictions before and after the edit, for each unrelated query."""
        return list(zip(self.before, self.after[len(self.trial.edited) :], strict=False))
