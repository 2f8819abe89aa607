"""How likely a model finds given continuations: teacher-forced, batched, head only where it is read.

What a causal model says after a token depends on no later one. So a sequence that begins another one is not
run: it is read off the longer one's pass. The one-token objects of a prompt share one row, and an object of
several tokens shares it with the prompt's other object.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editors.errors import DataError
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize_all

Pair = tuple[str, str]
"""Prompt, and the continuation that follows it after one space."""

Ids = tuple[int, ...]

NO_CHOICE = -1
"""Where the model gives no numbers: the largest of these would be any token."""
HEAD_TOKENS = 512
"""Places whose logits are held at once: 256 MB for a vocabulary of 128 thousand."""


@dataclass(frozen=True)
class Scores:
    """One entry a pair."""

    log_probability: Float[Tensor, " pair"]
    """Mean over the continuation's tokens of log P(token | prompt, earlier tokens)."""
    exact: Bool[Tensor, " pair"]
    """Whether every token of the continuation is the model's first choice."""
    correct: Float[Tensor, " pair"]
    """Share of the continuation's tokens that are."""
    choices: Sequence[Ids]
    """The model's first choices in place of the continuation's tokens; `NO_CHOICE` where it has none."""


@dataclass(frozen=True)
class _Row:
    """A tokenised pair; the last token is never fed."""

    fed: Ids
    target: Ids

    @property
    def places(self) -> range:
        """Positions at which the target's tokens are foretold."""
        return range(len(self.fed) - len(self.target), len(self.fed))


class Scorer:
    """Scores pairs under a model; tokenised pairs are remembered, so scoring them again is cheap.

    The continuation's tokens are those that begin at or after the prompt's end in the tokenised whole, so
    a BOS or an uncommon space token cannot shift them.
    """

    def __init__(self, model: Model, *, batch_tokens: int = 8192) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self._rows: dict[Pair, _Row] = {}

    def read(self, pairs: Sequence[Pair]) -> None:
        """Tokenise what is not yet; scoring does it too, but perhaps hours later.

        Raises:
            DataError: for a continuation that shares a token with its prompt, and for a pair that is longer
                than the model allows.
        """
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._rows]
        texts = [f"{prompt} {continuation}" for prompt, continuation in new]
        for pair, tokens in zip(new, tokenize_all(self.model.tokenizer, texts), strict=True):
            row = _Row(tokens.ids[:-1], tokens.ids[tokens.first_after(len(pair[0])) :])
            if len(tokens.ids) > self.model.max_tokens:
                raise DataError(
                    f"{tokens.text!r} has {len(tokens.ids)} tokens, but {self.model.name} reads at most "
                    f"{self.model.max_tokens}: leave its fact out of the data"
                )
            self._rows[pair] = row

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Every pair's scores, in the order given; raises as `read`."""
        self.read(pairs)
        place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        found = self._score([self._rows[pair] for pair in place])
        order = torch.tensor([place[pair] for pair in pairs], dtype=torch.long)
        return Scores(
            found.log_probability[order],
            found.exact[order],
            found.correct[order],
            [found.choices[i] for i in order.tolist()],
        )

    def _score(self, rows: Sequence[_Row]) -> Scores:
        sizes = torch.tensor([len(row.target) for row in rows], dtype=torch.long)
        bounds = [0, *sizes.cumsum(dim=0).tolist()]
        said = torch.zeros(bounds[-1], dtype=torch.float64)
        choice = torch.zeros(bounds[-1], dtype=torch.long)
        for shared in _batches(rows, self.batch_tokens):
            tokens = [t for i in shared.rows for t in range(bounds[i], bounds[i + 1])]
            said[tokens], choice[tokens] = self._forward([rows[i] for i in shared.rows], shared)
        choice[said.isnan()] = NO_CHOICE
        wanted = torch.tensor([token for row in rows for token in row.target], dtype=torch.long)
        correct = _means((choice == wanted).double(), sizes)
        flat = choice.tolist()
        choices = [tuple(flat[a:b]) for a, b in pairwise(bounds)]
        return Scores(_means(said, sizes), correct == 1, correct, choices)

    def _forward(
        self, rows: Sequence[_Row], shared: "_Batch"
    ) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
        """One pass: log P of each target token of each row, and the likeliest one in its place."""
        ids, mask = (x.to(self.model.device) for x in pad(shared.lines))
        places = [(line, p) for row, line in zip(rows, shared.line, strict=True) for p in row.places]
        line, column = torch.tensor(places, device=ids.device).unbind(dim=1)
        wanted = torch.tensor([token for row in rows for token in row.target], device=ids.device)
        said, choice = foretold(self.model, self.model.hidden(ids, mask)[line, column], wanted)
        return said.double().cpu(), choice.cpu()


def foretold(
    model: Model,
    hidden: Float[Tensor, "token width"],
    wanted: Int[Tensor, " token"],
    *,
    at_once: int = HEAD_TOKENS,
) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """log P(wanted) after each hidden state, in nats, and the likeliest token there.

    The head runs on `at_once` states at a time, so no more logits than at_once · vocabulary are held.
    """
    said, choice = [], []
    for states, tokens in zip(hidden.split(at_once), wanted.split(at_once), strict=True):
        logits = model.logits(states)
        choice.append(logits.argmax(dim=-1))
        said.append(logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1))
    return torch.cat(said), torch.cat(choice)


@dataclass
class _Batch:
    """Sequences to run together, and the rows that are read off them."""

    lines: list[Ids] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    line: list[int] = field(default_factory=list)
    """Of each row."""


def _batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[_Batch]:
    """Sequences of similar length, at most `batch_tokens` padded tokens at a time."""
    host = hosts(row.fed for row in rows)
    guests: dict[Ids, list[int]] = {}
    for index, row in enumerate(rows):
        guests.setdefault(host[row.fed], []).append(index)
    batch = _Batch()
    for fed in sorted(guests, key=len):
        if batch.lines and (len(batch.lines) + 1) * len(fed) > batch_tokens:
            yield batch
            batch = _Batch()
        batch.line.extend([len(batch.lines)] * len(guests[fed]))
        batch.rows.extend(guests[fed])
        batch.lines.append(fed)
    if batch.lines:
        yield batch


def hosts(sequences: Iterable[Ids]) -> Mapping[Ids, Ids]:
    """The sequence that each is read off: itself, or a longer one that begins with it."""
    host: dict[Ids, Ids] = {}
    after: Ids = ()
    # in order, what begins with a sequence follows it at once
    for ids in sorted(set(sequences), reverse=True):
        host[ids] = host[after] if after[: len(ids)] == ids else ids
        after = ids
    return host


def _means(values: Float[Tensor, " token"], sizes: Int[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Mean over each pair's tokens."""
    pair = torch.arange(len(sizes)).repeat_interleave(sizes)
    return torch.zeros(len(sizes), dtype=values.dtype).index_add(0, pair, values) / sizes
