"""Edits: one by ROME, one and a hundred by MEMIT, ENCORE and AlphaEdit, all with the same fixed 20 steps."""

from collections.abc import Mapping
from typing import Any

import torch

from editors.base import Edit
from editors.locate.base import LocateThenEdit
from editors.locate.contexts import GivenContexts, Groups
from editors.locate.targets import TargetOptimizer
from editors.methods.alphaedit import AlphaEdit
from editors.methods.memit import MEMIT
from editors.methods.rome import ROME
from editors.regularizers.base import Regularizer
from editors.regularizers.history import History
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_constraint import NormConstraint
from tests import plain
from tests.benchmarks.measure import Row, against, alternate, extrapolated, timed
from tests.benchmarks.workbench import LAYERS, Workbench, facts

BATCH = 100
SCALED = "plain measured on 1 and 3 facts and extrapolated"
ROME_TARGETS = TargetOptimizer(reference="mlp", loss_threshold=0.0)
MEMIT_TARGETS = TargetOptimizer(max_norm_ratio=0.75, loss_threshold=0.0)


def rome_single(bench: Workbench) -> Row:
    """One fact at layer 5 with 21 contexts."""
    groups, moment = bench.rome_contexts, bench.moments.matrices[5]
    rome = ROME(**_settings(bench, "rome", groups), layers=[5], targets=ROME_TARGETS)
    rome.prepare(bench.model)
    (fact,) = facts(1)
    expected = plain.rome(bench.model, fact, groups, 5, moment, ROME_TARGETS)
    return alternate(
        "rome_single",
        fast=lambda: rome.edit(bench.model, [fact]),
        plain=lambda: plain.rome(bench.model, fact, groups, 5, moment, ROME_TARGETS),
        note="layer 5, 21 contexts",
        difference=difference(rome.edit(bench.model, [fact]), {5: expected}),
    )


def memit_single(bench: Workbench) -> Row:
    """One fact over five layers."""
    memit = _memit(bench)
    return alternate(
        "memit_single",
        fast=lambda: memit.edit(bench.model, facts(1)),
        plain=lambda: _plain_memit(bench, 1),
        note="layers 3-7",
        difference=difference(memit.edit(bench.model, facts(1)), _plain_memit(bench, 1)),
    )


def memit_batch100(bench: Workbench) -> Row:
    """A hundred facts at once over five layers, and which part of the time is insertion."""
    editor = _memit(bench)
    edit, fast_s = _hundred(bench, editor)
    share = edit.seconds["insertion"] / sum(edit.seconds.values())
    return against(
        "memit_batch100",
        fast_s,
        extrapolated(lambda count: _plain_memit(bench, count), BATCH),
        f"layers 3-7; {SCALED}; insertion {share:.0%} of the time",
        insertion_share=share,
        difference=difference(editor.edit(bench.model, facts(3)), _plain_memit(bench, 3)),
    )


def alphaedit_batch100(bench: Workbench) -> Row:
    """The same in the null space of second moments of which half of the directions are null."""
    editor = AlphaEdit(
        **_settings(bench, "alphaedit", bench.memit_contexts),
        layers=LAYERS,
        targets=MEMIT_TARGETS,
        threshold=0.5,
    )
    editor.prepare(bench.model)
    spectrum = bench.moments.spectra(bench.model, LAYERS[:1])[LAYERS[0]]
    free = spectrum.vectors[:, spectrum.values < editor.threshold]
    projection = free @ free.T

    def slow(count: int) -> dict[int, torch.Tensor]:
        groups, layer = bench.memit_contexts, LAYERS[-1]
        vectors = [plain.target(bench.model, fact, groups, layer, MEMIT_TARGETS) for fact in facts(count)]
        spaces = dict.fromkeys(LAYERS, projection)
        return plain.insert(
            bench.model, facts(count), groups, LAYERS, spaces, torch.stack(vectors), projected=True
        )

    fast_s = _hundred(bench, editor)[1]
    return against(
        "alphaedit_batch100",
        fast_s,
        extrapolated(slow, BATCH),
        f"layers 3-7, null space {free.shape[1]} of {len(free)}; {SCALED}",
        difference=difference(editor.edit(bench.model, facts(3)), slow(3)),
    )


def encore_batch100(bench: Workbench) -> Row:
    """ENCORE with MPES against ENCORE without it: what early stopping saves."""
    rules = {"history": History(), "norm_constraint": NormConstraint(weight=10.0)}
    without_s = _hundred(bench, _memit(bench, rules))[1]
    edit, with_s = _hundred(bench, _memit(bench, {**rules, "mpes": MPES(hits=4)}))
    steps = edit.diagnostics["optimiser_steps"]
    note = f"plain: without MPES, 19 steps; fast: with it, {steps:.1f} steps on average"
    return against("encore_batch100", with_s, without_s, note, steps=steps)


def _settings(bench: Workbench, name: str, groups: Groups) -> dict[str, Any]:
    return {"name": name, "contexts": GivenContexts(templates=groups), "moments": bench.moments}


def _memit(bench: Workbench, rules: Mapping[str, Regularizer] | None = None) -> MEMIT:
    memit = MEMIT(
        **_settings(bench, "memit", bench.memit_contexts),
        layers=LAYERS,
        targets=MEMIT_TARGETS,
        preservation_weight=100.0,
        regularizers=rules or {},
    )
    memit.prepare(bench.model)
    return memit


def _hundred(bench: Workbench, editor: LocateThenEdit) -> tuple[Edit, float]:
    """A batch of a hundred, and its seconds."""
    found: list[Edit] = []
    seconds = timed(lambda: found.append(editor.edit(bench.model, facts(BATCH))))
    return found[0], seconds


def _plain_memit(bench: Workbench, count: int) -> dict[int, torch.Tensor]:
    kept = {layer: 100.0 * bench.moments.matrices[layer] for layer in LAYERS}
    return plain.memit(bench.model, facts(count), bench.memit_contexts, LAYERS, kept, MEMIT_TARGETS)


def difference(edit: Edit, expected: Mapping[int, torch.Tensor]) -> float:
    """Largest relative Frobenius difference of a layer's update."""
    return max(
        float((delta.dense() - expected[site.layer]).norm() / expected[site.layer].norm())
        for site, delta in edit.update.items()
    )
