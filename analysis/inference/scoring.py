"""How likely a model finds given continuations: teacher-forced, batched, with the head only on target tokens.

The output of a causal model at a token depends on no later token. A sequence that begins another one is
therefore not run: its scores are read off the longer one's pass. The one-token objects of a prompt share one
row, and an object of several tokens shares it with the prompt's other object.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.data import Reader, as_it_is
from editors.errors import DataError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize_all
from editors.phases import Phase, Report, silent

Pair = tuple[str, str]
"""Prompt, and the continuation that follows it after one space."""

Ids = tuple[int, ...]
"""Token ids of one sequence."""

NO_CHOICE = -1
"""First choice of a model whose scores are NaN: the arg-max of these would be an arbitrary token."""
HEAD_TOKENS = 512
"""Tokens whose logits are held at once: 256 MB for a vocabulary of 128 thousand."""


@dataclass(frozen=True)
class Scores:
    """Scores of a list of pairs; one entry per pair."""

    log_probability: Float[Tensor, " pair"]
    """Mean over the continuation's tokens of log P(token | prompt, earlier tokens), in nats."""
    exact: Bool[Tensor, " pair"]
    """Whether every token of the continuation is the model's first choice."""
    correct: Float[Tensor, " pair"]
    """Share of the continuation's tokens that are the model's first choice."""
    choices: Sequence[Ids]
    """The model's first choices in place of the continuation's tokens; `NO_CHOICE` if scores are NaN."""


@dataclass(frozen=True)
class Query:
    """Token ids of a context, and of a target whose likelihood after the context is computed."""

    context: Ids
    target: Ids

    @property
    def inputs(self) -> Ids:
        """The tokens that the model reads: all except the last one."""
        return (self.context + self.target)[:-1]

    @property
    def positions(self) -> range:
        """Positions of the inputs after which the target's tokens follow."""
        return range(len(self.context) - 1, len(self.context) + len(self.target) - 1)


class Scorer:
    """Scores pairs under a model; tokenised pairs are cached, so that scoring them again is cheap.

    The continuation's tokens are those that begin at or after the prompt's end in the tokenised whole, so
    that a BOS or an uncommon space token cannot shift them. `reader` gives what the model reads for a prompt.
    """

    def __init__(self, model: Model, *, batch_tokens: int = 8192, reader: Reader = as_it_is) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.reader = reader
        self._queries: dict[Pair, Query] = {}

    def read(self, pairs: Sequence[Pair]) -> None:
        """Tokenise new pairs now, so that bad ones are found at once rather than when they are scored.

        Raises:
            DataError: for a continuation that shares a token with its prompt, and for a pair that is longer
                than the model allows.
        """
        self._read(self._as_read(pairs))

    def _read(self, pairs: Sequence[Pair]) -> None:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._queries]
        texts = [f"{prompt} {continuation}" for prompt, continuation in new]
        for pair, tokens in zip(new, tokenize_all(self.model.tokenizer, texts), strict=True):
            end = tokens.first_after(len(pair[0]))
            if len(tokens.ids) > self.model.max_tokens:
                raise DataError(
                    f"{tokens.text!r} has {len(tokens.ids)} tokens, but {self.model.name} reads at most "
                    f"{self.model.max_tokens}: leave its fact out of the data"
                )
            self._queries[pair] = Query(tokens.ids[:end], tokens.ids[end:])

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair], report: Report = silent) -> Scores:
        """The scores of all pairs, in their order; raises as `read`."""
        pairs = self._as_read(pairs)
        self._read(pairs)
        place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        scores = self._score([self._queries[pair] for pair in place], report)
        order = torch.tensor([place[pair] for pair in pairs], dtype=torch.long)
        return Scores(
            scores.log_probability[order],
            scores.exact[order],
            scores.correct[order],
            [scores.choices[i] for i in order.tolist()],
        )

    def _as_read(self, pairs: Sequence[Pair]) -> list[Pair]:
        return [(self.reader(prompt), continuation) for prompt, continuation in pairs]

    def _score(self, queries: Sequence[Query], report: Report) -> Scores:
        sizes = torch.tensor([len(query.target) for query in queries], dtype=torch.long)
        bounds = [0, *sizes.cumsum(dim=0).tolist()]
        log_probabilities = torch.zeros(bounds[-1], dtype=torch.float64)
        choices = torch.zeros(bounds[-1], dtype=torch.long)
        done = 0
        for batch in _batches(queries, self.batch_tokens):
            report(Phase(name="scoring", count=done, total=len(queries), unit="answers"))
            done += len(batch.queries)
            tokens = [t for i in batch.queries for t in range(bounds[i], bounds[i + 1])]
            log_probabilities[tokens], choices[tokens] = self._forward(
                [queries[i] for i in batch.queries], batch
            )
        choices[log_probabilities.isnan()] = NO_CHOICE
        targets = torch.tensor([token for query in queries for token in query.target], dtype=torch.long)
        correct = _means((choices == targets).double(), sizes)
        flat = choices.tolist()
        return Scores(
            _means(log_probabilities, sizes),
            correct == 1,
            correct,
            [tuple(flat[a:b]) for a, b in pairwise(bounds)],
        )

    def _forward(
        self, queries: Sequence[Query], batch: "_Batch"
    ) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
        """One pass: log P of each target token of each query, and the likeliest token in its place."""
        ids, mask = (x.to(self.model.device) for x in pad(batch.sequences))
        places = [(row, p) for query, row in zip(queries, batch.row_of, strict=True) for p in query.positions]
        row, column = torch.tensor(places, device=ids.device).unbind(dim=1)
        targets = torch.tensor([token for query in queries for token in query.target], device=ids.device)
        hidden = self.model.hidden(ids, mask)[row, column]
        log_probabilities, choices = score_tokens(self.model, hidden, targets)
        return log_probabilities.double().cpu(), choices.cpu()


def score_tokens(
    model: Model,
    hidden: Float[Tensor, "token width"],
    targets: Int[Tensor, " token"],
    *,
    at_once: int = HEAD_TOKENS,
) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """log P(target) after each hidden state, in nats, and the likeliest token there.

    The head runs on `at_once` states at a time, so that at most at_once · vocabulary logits are held.
    """
    log_probabilities, choices = [], []
    for states, tokens in zip(hidden.split(at_once), targets.split(at_once), strict=True):
        logits = model.logits(states)
        choices.append(logits.argmax(dim=-1))
        log_probabilities.append(logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1))
    return torch.cat(log_probabilities), torch.cat(choices)


@dataclass
class _Batch:
    """Sequences to run together, and the queries that are read off them."""

    sequences: list[Ids] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    row_of: list[int] = field(default_factory=list)
    """Row of the sequence of each query."""


def _batches(queries: Sequence[Query], batch_tokens: int) -> Iterator[_Batch]:
    """Sequences of similar length, at most `batch_tokens` padded tokens at a time."""
    passes = shared_passes(queries)
    batch = _Batch()
    for inputs in sorted(passes, key=len):
        if batch.sequences and (len(batch.sequences) + 1) * len(inputs) > batch_tokens:
            yield batch
            batch = _Batch()
        batch.row_of.extend([len(batch.sequences)] * len(passes[inputs]))
        batch.queries.extend(passes[inputs])
        batch.sequences.append(inputs)
    if batch.sequences:
        yield batch


def shared_passes(queries: Sequence[Query]) -> dict[Ids, list[int]]:
    """The inputs that have to be run, each with the indices of the queries that are read off its pass.

    Inputs that begin longer ones are read off these. The order is that of the first query of each pass.
    """
    host: dict[Ids, Ids] = {}
    after: Ids = ()
    # in descending order, a sequence comes directly after one that begins with it, if there is one
    for inputs in sorted({query.inputs for query in queries}, reverse=True):
        host[inputs] = host[after] if after[: len(inputs)] == inputs else inputs
        after = inputs
    passes: dict[Ids, list[int]] = {}
    for index, query in enumerate(queries):
        passes.setdefault(host[query.inputs], []).append(index)
    return passes


def _means(values: Float[Tensor, " token"], sizes: Int[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Mean over each pair's tokens."""
    pair = torch.arange(len(sizes)).repeat_interleave(sizes)
    return torch.zeros(len(sizes), dtype=values.dtype).index_add(0, pair, values) / sizes
