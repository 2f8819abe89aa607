"""Edits: one by ROME, one and a hundred by MEMIT."""

from editors.locate.contexts import GivenContexts
from editors.locate.targets import TargetOptimizer
from editors.memit import MEMIT
from editors.rome import ROME
from tests import plain
from tests.bench.measure import Row, alternate
from tests.bench.workbench import LAYERS, MEMIT_CONTEXTS, ROME_CONTEXTS, Workbench, facts

BATCH, PLAIN_FACTS = 100, 2
ROME_TARGETS = TargetOptimizer(reference="mlp", loss_threshold=0.0)
MEMIT_TARGETS = TargetOptimizer(max_norm_ratio=0.75, loss_threshold=0.0)


def rome_single(bench: Workbench) -> Row:
    """One fact at layer 5 with 21 contexts."""
    rome = ROME(
        name="rome",
        layers=[5],
        targets=ROME_TARGETS,
        contexts=GivenContexts(templates=ROME_CONTEXTS),
        moments=bench.moments,
    )
    rome.prepare(bench.model)
    (fact,), moment = facts(1), bench.moments.matrices[5]
    return alternate(
        "rome_single",
        fast=lambda: rome.edit(bench.model, [fact]),
        plain=lambda: plain.rome(bench.model, fact, ROME_CONTEXTS, 5, moment, ROME_TARGETS),
        note="layer 5, 21 contexts",
    )


def memit_single(bench: Workbench) -> Row:
    """One fact over five layers."""
    memit = _memit(bench)
    return alternate(
        "memit_single",
        fast=lambda: memit.edit(bench.model, facts(1)),
        plain=lambda: _plain_memit(bench, 1),
        note="layers 3-7",
    )


def memit_batch100(bench: Workbench) -> Row:
    """A hundred facts at once over five layers."""
    memit = _memit(bench)
    return alternate(
        "memit_batch100",
        fast=lambda: memit.edit(bench.model, facts(BATCH)),
        plain=lambda: _plain_memit(bench, PLAIN_FACTS),
        scale=BATCH / PLAIN_FACTS,
        runs=1,
        note=f"layers 3-7; one run; plain measured on {PLAIN_FACTS} facts and scaled",
    )


def _memit(bench: Workbench) -> MEMIT:
    memit = MEMIT(
        name="memit",
        layers=LAYERS,
        targets=MEMIT_TARGETS,
        contexts=GivenContexts(templates=MEMIT_CONTEXTS),
        moments=bench.moments,
        preservation_weight=100.0,
    )
    memit.prepare(bench.model)
    return memit


def _plain_memit(bench: Workbench, count: int) -> object:
    kept = {layer: 100.0 * bench.moments.matrices[layer] for layer in LAYERS}
    return plain.memit(bench.model, facts(count), MEMIT_CONTEXTS, LAYERS, kept, MEMIT_TARGETS)
