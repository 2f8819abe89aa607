"""Probes between all pairs of a deep model's blocks: together, against one after another in scikit-learn."""

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from analysis.stages.probes.classifiers import Classifiers, LayerPair
from analysis.stages.probes.logistic import BatchedLogistic
from tests.benchmarks.measure import Row, against, timed
from tests.benchmarks.workbench import Workbench
from tests.sklearn_logistic import SklearnLogistic

BLOCKS, WIDTH, TRAINING, HELD_OUT = 48, 1600, 2000, 500
DOMINANT = 32
PAIRS: tuple[LayerPair, ...] = tuple((i, j) for i in range(BLOCKS) for j in range(i + 1, BLOCKS))
SPREAD = tuple(sorted(PAIRS, key=lambda pair: pair[1] - pair[0])[23::47])
"""24 pairs, evenly spaced among all in the order of their distance, since near ones take much longer."""
NEIGHBOURS: tuple[LayerPair, ...] = ((0, 1), (23, 24), (46, 47))
"""The hardest to tell apart: compared, not timed."""


def probes_48_layers(bench: Workbench) -> Row:
    """GPT-2 XL's shape with 2,000 samples a block; accuracies are compared on 500 others."""
    layers = residual_walk()
    training, held_out = layers[:, :TRAINING], layers[:, TRAINING:]
    found: list[Classifiers] = []
    fast_s = timed(lambda: found.append(BatchedLogistic().fit(training, PAIRS)))
    plain_s = min(sklearn_seconds(training, threads) for threads in (None, 1)) / len(SPREAD) * len(PAIRS)
    both = (*SPREAD, *NEIGHBOURS)
    ours = found[0].accuracy(held_out)[[PAIRS.index(pair) for pair in both]]
    theirs = SklearnLogistic().fit(training, both).accuracy(held_out)
    points = 100 * float((ours - theirs).abs().max())
    note = (
        f"{len(PAIRS)} pairs, width {WIDTH}, {TRAINING} samples a block, same tolerance; scikit-learn on "
        f"{len(SPREAD)} pairs, best number of threads, scaled; accuracies differ by {points:.1f} points"
    )
    return against("probes_48_layers", fast_s, plain_s, note, points=points)


def sklearn_seconds(training: Tensor, threads: int | None) -> float:
    """What scikit-learn takes for the pairs of `SPREAD`, on so many threads or on its own choice."""
    with threadpool_limits(threads):
        return timed(lambda: SklearnLogistic().fit(training, SPREAD))


def residual_walk(blocks: int = BLOCKS) -> Tensor:
    """Activations (block, sample, width) that each block adds to.

    Features are of different size, a few directions dominate all blocks, norms grow by a third in eight
    blocks, and what a block adds to all samples alike is a small part of what it adds.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    samples, falling = TRAINING + HELD_OUT, torch.arange(1.0, DOMINANT + 1)[:, None] ** -0.7
    sizes, shared = normal(WIDTH).mul(0.7).exp(), 2 * falling * normal(DOMINANT, WIDTH)
    layers = torch.empty(blocks, samples, WIDTH)
    now = sizes * (normal(samples, WIDTH) + normal(samples, DOMINANT) @ shared + normal(WIDTH))
    for block in range(blocks):
        directions = shared + 0.5 * falling * normal(DOMINANT, WIDTH)
        added = normal(samples, WIDTH) + normal(samples, DOMINANT) @ directions + 0.5 * normal(WIDTH)
        now = now + 0.25 * 1.04**block * sizes * added
        layers[block] = now
    return layers
