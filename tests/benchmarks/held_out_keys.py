"""How many tokens do second moments need? `python -m tests.benchmarks.held_out_keys MODEL` (folder, hub id).

An editor that preserves C = E[k kᵀ] writes where C is small. If C rests on few tokens, some of these
directions are only unseen: other keys do lie there. Measured is a whitened drift D = G C⁻¹ of Gaussian G with
‖D‖ = ‖W₀‖ / 2, by its functional size over keys of a moment M,

    size² = E‖D k‖² / E‖W₀ k‖² = ‖W₀‖² / 4 · tr(C⁻¹ M C⁻¹) / tr(C⁻²) / tr(W₀ M W₀ᵀ),

the expectation over G: in-sample with M = C, and with the M of other articles. With n Gaussian keys of width
d the quotient of both sizes would be 1 / (1 − d / n).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from editors.models.loading import Checkpoint
from editors.moments.collected import CollectedMoments
from editors.moments.moment_sources import SITE
from pipeline.data.encyclopedia import PackagedArticles

LAYERS = [3, 7]
TOKENS = [3_500, 20_000, 100_000]
HELD_OUT = 20_000
"""Tokens of the held-out articles."""


@dataclass(frozen=True)
class Sizes:
    """Functional sizes of a whitened drift."""

    seen: float
    held_out: float


def sizes(
    weight: Float[Tensor, "out in"], moment: Float[Tensor, "in in"], other: Float[Tensor, "in in"]
) -> Sizes:
    """Sizes of a drift that is whitened by `moment`, over its own keys and over those of `other`."""
    inverse, weight = torch.linalg.inv(moment.double()), weight.double()

    def size(keys: Float[Tensor, "in in"]) -> float:
        drift = torch.einsum("ij,jk,ki->", inverse, keys, inverse) / inverse.square().sum()
        output = torch.einsum("ij,jk,ik->", weight, keys, weight)
        return float((weight.square().sum() / 4 * drift / output).sqrt())

    return Sizes(size(moment.double()), size(other.double()))


def main() -> None:
    """Print both sizes for every layer and number of tokens."""
    path = sys.argv[1]
    model = Checkpoint(name=Path(path).name, path=path, device="cpu").load()
    other = CollectedMoments(corpus=PackagedArticles(part="held_out"), tokens=HELD_OUT).load(model, LAYERS)
    table = Table("layer", "tokens", "in-sample", "held-out keys", "held-out / in-sample")
    for tokens in TOKENS:
        moments = CollectedMoments(corpus=PackagedArticles(), tokens=tokens).load(model, LAYERS)
        for layer in LAYERS:
            found = sizes(model.weight(SITE, layer), moments[layer], other[layer])
            numbers = (f"{found.seen:.3f}", f"{found.held_out:.3f}", f"{found.held_out / found.seen:.2f}")
            table.add_row(str(layer), f"{tokens:,}", *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
