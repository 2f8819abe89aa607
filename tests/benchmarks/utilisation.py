"""Edits of a deep model against the fastest float32 product of this machine: a model of SmolLM2-135M's shape.

The "plain" time of a row is what the same floating-point operations take as one product of two large
matrices, in the faster of PyTorch's two libraries, measured in the same run; `ratio` is the utilisation. They
are counted by PyTorch and include those of padding. Few rows cannot reach 1, because every step reads the
weights of all blocks above the edited ones once forward and once back: `reading` is the share of the time
that these bytes take at the speed of a copy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from editors.locate.base import LocateThenEdit
from editors.locate.contexts import GivenContexts
from editors.methods.memit import MEMIT
from editors.methods.rome import ROME
from editors.models.model import Model
from editors.models.modules.products import onednn_products
from tests.benchmarks.editing import MEMIT_TARGETS, ROME_TARGETS, difference
from tests.benchmarks.measure import Row, against, alternate, timed
from tests.benchmarks.workbench import LAYERS, Workbench, facts

SIDE, COPIED = 2048, 2**26
"""Rows and columns of the large product, and numbers that are copied."""


def memit_batch_smollm2(bench: Workbench) -> Row:
    """Twenty facts at once over five layers."""
    return _row("memit_batch_smollm2", bench, _memit(bench), 20)


def memit_single_smollm2(bench: Workbench) -> Row:
    """One fact over five layers."""
    return _row("memit_single_smollm2", bench, _memit(bench), 1)


def memit_rounded_smollm2(bench: Workbench) -> Row:
    """Twenty facts at once with products in bfloat16 inside the steps, against those in float32."""
    exact, batch = _memit(bench), facts(20)
    rounded = replace(exact, targets=replace(MEMIT_TARGETS, precision="bfloat16"))
    for editor in (exact, rounded):
        editor.prepare(bench.deep)
    expected = {site.layer: delta.dense() for site, delta in exact.edit(bench.deep, batch).update.items()}
    return alternate(
        "memit_rounded_smollm2",
        fast=partial(rounded.edit, bench.deep, batch),
        plain=partial(exact.edit, bench.deep, batch),
        note="products of the steps in bfloat16, 20 facts",
        difference=difference(rounded.edit(bench.deep, batch), expected),
    )


def rome_single_smollm2(bench: Workbench) -> Row:
    """One fact at layer 5 with 21 contexts."""
    contexts = GivenContexts(templates=bench.rome_contexts)
    rome = ROME(name="rome", contexts=contexts, moments=bench.deep_moments, layers=[5], targets=ROME_TARGETS)
    return _row("rome_single_smollm2", bench, rome, 1)


def _memit(bench: Workbench) -> MEMIT:
    return MEMIT(
        name="memit",
        contexts=GivenContexts(templates=bench.memit_contexts),
        moments=bench.deep_moments,
        layers=LAYERS,
        targets=MEMIT_TARGETS,
        preservation_weight=100.0,
    )


def _row(name: str, bench: Workbench, editor: LocateThenEdit, count: int, runs: int = 3) -> Row:
    model, batch = bench.deep, facts(count)
    editor.prepare(model)
    flops = counted(lambda: editor.edit(model, batch))
    speeds, seconds = [gemm_speed()], []
    for _ in range(runs):
        seconds.append(timed(lambda: editor.edit(model, batch)))
        speeds.append(gemm_speed())
    fastest, speed = min(seconds), max(speeds)
    read = 2 * editor.targets.steps * _bytes_above(model, editor.layers[-1])
    reading = read / copy_speed() / fastest
    note = (
        f"fast: {fastest / count:.2f} s a fact; plain: its {flops / count / 1e9:.0f} GFLOP as one product, "
        f"{speed / 1e9:.0f} GFLOP/s; reading the weights: {reading:.0%} of the time"
    )
    more = {"facts": count, "flops": flops, "gemm": speed, "reading": reading}
    return against(name, fastest, flops / speed, note, **more)


def counted(work: Callable[[], object]) -> int:
    """Floating-point operations of the work."""
    mapping = {torch.ops.mkldnn._linear_pointwise: _flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return counter.get_total_flops()


def _bytes_above(model: Model, layer: int) -> int:
    """Bytes of the weights of all blocks above, and of the head."""
    modules = (*model.blocks[layer + 1 :], model.hf.lm_head)
    return sum(weight.numel() * weight.itemsize for module in modules for weight in module.parameters())


def _flops(inputs: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    """Of a linear module, from the shapes of its inputs and of its (out, in) weight."""
    return 2 * math.prod(inputs) * weight[0]


def gemm_speed(side: int = SIDE, place: Tensor | None = None) -> float:
    """Floating-point operations per second of a large product in the precision and on the device of `place`,
    by default float32 on the CPU; there through MKL or through oneDNN."""
    like = torch.empty(0) if place is None else place
    linear = torch.nn.Linear(side, side, bias=False).requires_grad_(False).to(like)
    rows = torch.randn(side, side).to(like)
    usual = _fastest(partial(linear, rows))
    with onednn_products(linear):
        return 2 * side**3 / min(usual, _fastest(partial(linear, rows)))


def copy_speed() -> float:
    """Bytes per second that a copy of a large tensor reads and writes."""
    source = torch.randn(COPIED)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.itemsize / _fastest(partial(target.copy_, source))


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs."""
    return min(timed(work) for _ in range(5))
