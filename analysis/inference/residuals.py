"""Residual-stream vectors of sampled tokens after every block, from one forward pass per batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.inference.texts import Batch, Document, batches
from editors.models.hooks import observe
from editors.models.model import Model

Part = tuple[str, int]
"""`block`, `attention` or `mlp` with the number of its block; `input` is the input of block 0."""
PARTS = ("block", "attention", "mlp")


@dataclass(frozen=True)
class SamplePositions:
    """Sampled token positions of each document; a sample is one of them, in the order of the documents."""

    positions: Sequence[Sequence[int]]

    @property
    def offsets(self) -> list[int]:
        """Number of samples before each document; the last entry is the number of all."""
        return list(accumulate(map(len, self.positions), initial=0))


@torch.inference_mode()
def residuals(
    model: Model, documents: Sequence[Document], positions: SamplePositions, *, batch_tokens: int = 4096
) -> Float[Tensor, "block sample width"]:
    """The residual stream after every block at the sampled tokens, in main memory.

    At least float32: 4 · blocks · samples · width bytes, and beside it one batch of one block.
    """
    offsets = positions.offsets
    precision = torch.promote_types(model.dtype, torch.float32)
    vectors = torch.empty(model.depth, offsets[-1], model.width, dtype=precision)
    blocks = {layer: model.block(layer) for layer in range(model.depth)}
    for batch in batches(documents, model, batch_tokens):
        row, column, sample = samples_in_batch(batch, positions, offsets)

        def store(layer: int, output: Tensor, token: tuple = (row, column), sample: Tensor = sample) -> None:
            vectors[layer, sample] = output[token].to(vectors)

        with observe(blocks, store):
            model.hidden(batch.ids, batch.mask)
    return vectors


def samples_in_batch(
    batch: Batch, positions: SamplePositions, offsets: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of each sample that lies in the batch, and its number among all samples."""
    triples = [
        (row, position, offsets[index] + nth)
        for row, index in enumerate(batch.index)
        for nth, position in enumerate(positions.positions[index])
    ]
    row, column, sample = torch.tensor(triples, dtype=torch.long).reshape(-1, 3).unbind(dim=1)
    return row.to(batch.ids.device), column.to(batch.ids.device), sample
