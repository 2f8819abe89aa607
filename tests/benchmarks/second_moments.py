"""Statistics of five layers: one pass for all, against a pass a layer as the published code makes them."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.moments.moment_sources import SITE
from editors.moments.streaming import Batching, Budget, Tally, collect
from tests.benchmarks.measure import Row, alternate
from tests.benchmarks.workbench import LAYERS, Workbench
from tests.tiny import TEXT

TOKENS = 8192


def statistics_5_layers(bench: Workbench) -> Row:
    """Layers 3 to 7 over the same documents; the sums of both ways are compared."""
    model, texts = bench.model, documents(TOKENS)
    slow = {layer: plain(model, texts[:4], layer) for layer in LAYERS}
    quick = fast(model, texts[:4])
    apart = max(
        float((quick.moments[layer].matrix - total).norm() / total.norm()) for layer, total in slow.items()
    )
    return alternate(
        "statistics_5_layers",
        fast=lambda: fast(model, texts),
        plain=lambda: [plain(model, texts, layer) for layer in LAYERS],
        note=f"layers 3-7, {len(texts)} documents of 16 to 512 tokens",
        difference=apart,
    )


def documents(tokens: int) -> list[str]:
    """Texts whose lengths vary as those of paragraphs do."""
    rng, words = random.Random(0), " ".join(TEXT).split()
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(int(16 * 2 ** rng.uniform(0, 5)))
    return [" ".join(rng.choices(words, k=length // 2)) for length in lengths]


def fast(model: Model, texts: Sequence[str]) -> Tally:
    """The streaming pass."""
    return collect(model, texts, Budget(documents=len(texts)), Batching(), Tally.start(model, LAYERS))


@torch.no_grad()
def plain(model: Model, texts: Sequence[str], layer: int) -> Tensor:
    """One layer as in kmeng01/rome `rome/layer_stats.py`: sorted batches, float32 sums of whole products."""
    module, width = model.module(SITE, layer), model.weight(SITE, layer).shape[1]
    total, count = torch.zeros(width, width), 0
    for rows in _published_batches(model, texts):
        ids, mask = pad(rows)
        with capture(inputs={layer: module}, stop_after=module) as seen:
            model.hidden(ids, mask)
        keys = seen[layer][mask]
        total += keys.T @ keys
        count += len(keys)
    return total / count


def _published_batches(model: Model, texts: Sequence[str]) -> Iterator[list[tuple[int, ...]]]:
    """Groups of 100 documents, sorted by length, in batches of at most three times the longest text."""
    for start in range(0, len(texts), 100):
        rows = [
            tokenize(model.tokenizer, text).ids[: model.max_tokens] for text in texts[start : start + 100]
        ]
        batch: list[tuple[int, ...]] = []
        for row in sorted(rows, key=len, reverse=True):
            if batch and len(batch[0]) * (len(batch) + 1) > 3 * model.max_tokens:
                yield batch
                batch = []
            batch.append(row)
        yield batch
