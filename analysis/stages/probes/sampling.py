"""Tokens drawn from documents, split by document into those to train on and those to test on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.inference.residuals import Places
from analysis.inference.texts import Document
from editors.errors import ConfigError


@dataclass(frozen=True)
class Drawn:
    """Drawn tokens; those of the training documents come first."""

    documents: Sequence[Document]
    """Cut after their last drawn token: what follows reaches no earlier one."""
    places: Places
    training: int
    """Number of training samples."""
    held_documents: int
    """The last so many documents are held out."""


def draw(
    documents: Sequence[Document], *, samples: int, per_document: int, held_out: float, seed: int
) -> Drawn:
    """Documents in random order and `per_document` tokens of each, until there are enough.

    First tokens are never drawn. Where there are too few documents, each gives more tokens.

    Raises:
        ConfigError: where the texts have too few tokens, or all samples come from one document.
    """
    rng = random.Random(seed)
    order = rng.sample(documents, len(documents))
    limit = max(per_document, _least_limit(order, samples))
    chosen: list[list[int]] = []
    left = samples
    for document in order:
        if left:
            count = min(len(document) - 1, limit, left)
            chosen.append(sorted(rng.sample(range(1, len(document)), count)))
            left -= count
    if len(chosen) < 2:
        raise ConfigError(
            f"stage.probes.samples={samples} come from one document, but training and testing need different "
            f"ones: raise samples or text.tokens, or lower per_document or text.longest"
        )
    held = min(max(1, round(held_out * len(chosen))), len(chosen) - 1)
    places = Places(chosen)
    cut = [document[: positions[-1] + 1] for document, positions in zip(order, chosen, strict=False)]
    return Drawn(cut, places, places.starts[len(chosen) - held], held)


def _least_limit(documents: Sequence[Document], samples: int) -> int:
    """Tokens to draw from a document at the most, so that all documents together give just enough."""
    lengths = sorted(len(document) - 1 for document in documents)
    if sum(lengths) < samples:
        raise ConfigError(
            f"stage.probes.samples={samples}, but the texts have only {sum(lengths)} tokens after the first "
            f"of each document: lower it, or raise text.tokens"
        )
    left = samples
    for shorter, length in enumerate(lengths):
        limit = -(-left // (len(lengths) - shorter))  # if all that are left give equally many
        if limit <= length:
            return limit
        left -= length
    raise AssertionError("the longest document gives what is left")
