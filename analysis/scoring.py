"""How likely a model finds given continuations: teacher-forced, batched, head only where it is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.model.model import Model
from editors.model.positions import pad, tokenize

Pair = tuple[str, str]
"""Prompt, and the continuation that follows it after one space."""


@dataclass(frozen=True)
class Scores:
    """One entry a pair."""

    log_probability: Float[Tensor, " pair"]
    """Mean over the continuation's tokens of log P(token | prompt, earlier tokens)."""
    exact: Bool[Tensor, " pair"]
    """Whether every token of the continuation is the model's first choice."""


@dataclass(frozen=True)
class _Row:
    """A tokenised pair; the last token is never fed."""

    ids: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def fed(self) -> tuple[int, ...]:
        return self.ids[:-1]


class Scorer:
    """Scores pairs under a model; tokenised pairs are remembered, so scoring them again is cheap.

    The continuation's tokens are those that begin at or after the prompt's end in the tokenised whole, so
    a BOS or an uncommon space token cannot shift them.
    """

    def __init__(self, model: Model, *, batch_tokens: int = 8192) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self._rows: dict[Pair, _Row] = {}

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Log-probability and exactness of every pair, in the order given.

        Raises:
            DataError: for a continuation that shares a token with its prompt.
        """
        rows = [self._row(pair) for pair in pairs]
        likelihood = torch.zeros(len(rows), dtype=torch.float64)
        exact = torch.zeros(len(rows), dtype=torch.bool)
        for group in self._groups(rows):
            for index, (value, hit) in zip(group, self._forward([rows[i] for i in group]), strict=True):
                likelihood[index], exact[index] = value, hit
        return Scores(likelihood, exact)

    def _row(self, pair: Pair) -> _Row:
        if pair not in self._rows:
            prompt, continuation = pair
            tokens = tokenize(self.model.tokenizer, f"{prompt} {continuation}")
            self._rows[pair] = _Row(tokens.ids, tokens.ids[tokens.first_after(len(prompt)) :])
        return self._rows[pair]

    def _groups(self, rows: Sequence[_Row]) -> Iterator[list[int]]:
        """Indices in batches of similar length, rows that feed the same tokens side by side."""
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].fed), rows[i].fed))
        group: list[int] = []
        for index in order:
            if group and (len(group) + 1) * len(rows[index].fed) > self.batch_tokens:
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _forward(self, rows: Sequence[_Row]) -> list[tuple[float, bool]]:
        """One pass; rows that feed the same tokens (one-token continuations of a prompt) are run once."""
        lines = {fed: i for i, fed in enumerate(dict.fromkeys(row.fed for row in rows))}
        ids, mask = (x.to(self.model.device) for x in pad(list(lines)))
        places = [(lines[row.fed], len(row.fed) - k) for row in rows for k in range(len(row.target), 0, -1)]
        line, column = torch.tensor(places, device=ids.device).unbind(dim=1)
        wanted = torch.tensor([token for row in rows for token in row.target], device=ids.device)
        logits = self.model.logits(self.model.hidden(ids, mask)[line, column])
        said = logits.log_softmax(dim=-1).gather(1, wanted[:, None]).squeeze(1).cpu()
        hit = (logits.argmax(dim=-1) == wanted).cpu()
        sizes = [len(row.target) for row in rows]
        values = [float(part.double().mean()) for part in said.split(sizes)]
        return list(zip(values, (bool(part.all()) for part in hit.split(sizes)), strict=True))
