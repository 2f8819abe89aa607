"""Tokens drawn from documents, split by document into training and held-out ones."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.inference.residuals import SamplePositions
from analysis.inference.texts import Document
from editors.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """Drawn tokens; those of the training documents come first."""

    documents: Sequence[Document]
    """Cut after their last drawn token, since later tokens do not influence it."""
    positions: SamplePositions
    training: int
    """Number of training samples."""
    held: Sequence[int]
    """Number of samples of each held-out document; these documents are the last ones."""


def draw(
    documents: Sequence[Document], *, samples: int, per_document: int, held_out: float, seed: int
) -> Sample:
    """Documents in random order and `per_document` tokens of each, until there are enough.

    First tokens are never drawn. If there are too few documents, more tokens are drawn from each.

    Raises:
        ConfigError: if the texts have too few tokens, or all samples come from one document.
    """
    rng = random.Random(seed)
    order = rng.sample(documents, len(documents))
    limit = max(per_document, _smallest_limit(order, samples))
    positions: list[list[int]] = []
    left = samples
    for document in order:
        if left:
            count = min(len(document) - 1, limit, left)
            positions.append(sorted(rng.sample(range(1, len(document)), count)))
            left -= count
    if len(positions) < 2:
        raise ConfigError(
            f"stage.probes.samples={samples} come from one document, but training and testing need different "
            f"ones: raise samples or text.tokens, or lower per_document or text.longest"
        )
    held = min(max(1, round(held_out * len(positions))), len(positions) - 1)
    cut = [document[: drawn[-1] + 1] for document, drawn in zip(order, positions, strict=False)]
    sample = SamplePositions(positions)
    return Sample(cut, sample, sample.offsets[len(positions) - held], [len(p) for p in positions[-held:]])


def _smallest_limit(documents: Sequence[Document], samples: int) -> int:
    """Smallest limit of tokens per document with which all documents together give enough."""
    lengths = sorted(len(document) - 1 for document in documents)
    if sum(lengths) < samples:
        raise ConfigError(
            f"stage.probes.samples={samples}, but the texts have only {sum(lengths)} tokens after the first "
            f"of each document: lower it, or raise text.tokens"
        )
    left = samples
    for shorter, length in enumerate(lengths):
        limit = -(-left // (len(lengths) - shorter))  # if all remaining documents give equally many
        if limit <= length:
            return limit
        left -= length
    raise AssertionError("the longest document has enough tokens for the rest")
