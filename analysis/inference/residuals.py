"""Residual-stream vectors of chosen tokens after every block, from one forward pass."""

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
"""`block`, `attention` or `mlp` with its block; `input` is what enters block 0."""
PARTS = ("block", "attention", "mlp")


@dataclass(frozen=True)
class Places:
    """Chosen token positions of each document; a sample is one of them, in the order of the documents."""

    positions: Sequence[Sequence[int]]

    @property
    def starts(self) -> list[int]:
        """Number of samples before each document, and of all."""
        return list(accumulate(map(len, self.positions), initial=0))

    @property
    def documents(self) -> list[int]:
        """The document of each sample."""
        return [index for index, chosen in enumerate(self.positions) for _ in chosen]


@torch.inference_mode()
def residuals(
    model: Model, documents: Sequence[Document], places: Places, *, batch_tokens: int = 4096
) -> Float[Tensor, "block sample width"]:
    """What stands in the residual stream after every block at the chosen tokens, in main memory.

    At least float32: 4 · blocks · samples · width bytes, and beside it one batch of one block.
    """
    starts = places.starts
    precision = torch.promote_types(model.dtype, torch.float32)
    found = torch.empty(model.depth, starts[-1], model.width, dtype=precision)
    blocks = {layer: model.block(layer) for layer in range(model.depth)}
    for batch in batches(documents, model, batch_tokens):
        line, column, into = chosen_tokens(batch, places, starts)

        def keep(layer: int, output: Tensor, rows: tuple = (line, column), into: Tensor = into) -> None:
            found[layer, into] = output[rows].to(found)

        with observe(blocks, keep):
            model.hidden(batch.ids, batch.mask)
    return found


def chosen_tokens(batch: Batch, places: Places, starts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of the batch's chosen tokens, and which samples they are."""
    triples = [
        (row, position, starts[index] + nth)
        for row, index in enumerate(batch.index)
        for nth, position in enumerate(places.positions[index])
    ]
    line, column, into = torch.tensor(triples, dtype=torch.long).reshape(-1, 3).unbind(dim=1)
    return line.to(batch.ids.device), column.to(batch.ids.device), into
