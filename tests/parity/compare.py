"""Runs our editor on a case and measures how far it is from what was recorded."""

import re

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from editors.base import Editor
from editors.models.model import Model
from editors.updates import Site
from tests.parity.cases import Case, deviation
from tests.parity.methods import METHODS

Deviations = tuple[list[float], list[float]]
"""Of targets and of updates."""


def compare(case: Case) -> dict[str, object]:
    """The row that is printed for a case."""
    row: dict[str, object] = {"method": case.method, "case": case.name, "precision": case.precision}
    if case.method not in METHODS or case.unsupported:
        return row | {"targets": None, "deltas": None, "result": "not implemented"}
    model, editor = case.model(), METHODS[case.method](case)
    editor.prepare(model)
    runs = {"single": _single, "each": _each, "batch": _batch, "sequential": _sequential}
    run = runs[case.kind]
    targets, deltas = run(case, model, editor)
    worst = max(targets + deltas)
    row |= {"targets": max(targets, default=None), "deltas": max(deltas)}
    return row | {"result": "pass" if worst <= case.tolerance else "fail"}


def _single(case: Case, model: Model, editor: Editor) -> Deviations:
    """Every request on the unedited model; the update is recorded as an outer product."""
    targets, deltas = [], []
    (layer,) = case.hparams["layers"]
    for i, fact in enumerate(case.facts):
        edit = editor.edit(model, [fact])
        assert edit.targets is not None
        recorded = torch.outer(case.tensors[f"{i:02d}.right_vector"], case.tensors[f"{i:02d}.u"])
        targets.append(deviation(edit.targets[0], case.tensors[f"{i:02d}.v_star"]))
        (delta,) = edit.update.values()
        assert all(site.layer == layer for site in edit.update)
        deltas.append(deviation(delta.dense(), recorded))
    return targets, deltas


def _each(case: Case, model: Model, editor: Editor) -> Deviations:
    """Every request on the unedited model; the update of every matrix is recorded as it is."""
    deltas = []
    for i, fact in enumerate(case.facts):
        for site, delta in editor.edit(model, [fact]).update.items():
            recorded = case.tensors[f"{i:02d}.update.{_path(model, site)}"]
            transposed = isinstance(model.module(site.name, site.layer), Conv1D)
            deltas.append(deviation(delta.dense(), recorded.T if transposed else recorded))
    return [], deltas


def _path(model: Model, site: Site) -> str:
    return f"{model.family.blocks}.{site.layer}.{model.family.sites[site.name]}.weight"


def _batch(case: Case, model: Model, editor: Editor) -> Deviations:
    """All requests together."""
    edit = editor.edit(model, case.facts)
    assert (edit.targets is None) == (case.targets is None)
    targets = [
        deviation(ours, recorded)
        for ours, recorded in zip([edit.targets], [case.targets], strict=True)
        if ours is not None and recorded is not None
    ]
    deltas = [
        deviation(
            delta.dense(),
            case.oriented(model, site.layer, case.tensors["delta." + case.parameter(site.layer)]),
        )
        for site, delta in edit.update.items()
    ]
    return targets, deltas


def _sequential(case: Case, model: Model, editor: Editor) -> Deviations:
    """One batch after another; what is compared is the change since the start."""
    start = {layer: model.weight("mlp_down", layer).clone() for layer in case.hparams["layers"]}
    found: list[Tensor] = []
    deltas: list[float] = []
    for first in range(0, len(case.facts), case.batch_size):
        facts = case.facts[first : first + case.batch_size]
        edit = editor.edit(model, facts)
        model.apply(edit.update)
        editor.commit(model, facts, edit)
        found += [] if edit.targets is None else [edit.targets]
        deltas += _checkpoint(case, model, start, first + len(facts))
    targets = [] if case.targets is None else [deviation(torch.cat(found), case.targets)]
    return targets, deltas


def _checkpoint(case: Case, model: Model, start: dict[int, Tensor], edits: int) -> list[float]:
    """Deviations of the weights that were recorded after this many edits."""
    deviations = []
    for layer, before in start.items():
        for key, tensor in case.tensors.items():
            after = re.fullmatch(rf"(?:after_(\d+)|final)\.{re.escape(case.parameter(layer))}", key)
            if after and edits == int(after[1] or len(case.facts)):
                recorded = case.oriented(model, layer, tensor)
                deviations.append(deviation(model.weight("mlp_down", layer) - before, recorded - before))
    return deviations
