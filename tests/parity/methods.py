"""Our editors, built from the published names of their hyperparameters; one function and one row a method."""

from collections.abc import Callable
from typing import Literal

import torch

from editors.editor import Editor
from editors.locate.contexts import GivenContexts
from editors.locate.moments import GivenMoments
from editors.locate.regularizers import MPES, History, NormConstraint, Regularizer
from editors.locate.targets import TargetOptimizer
from editors.memit import MEMIT
from editors.rome import ROME
from tests.parity.cases import Case


def _targets(case: Case, reference: Literal["block", "mlp"]) -> TargetOptimizer:
    """Only ROME reads the model's own logits whatever `v_loss_layer` says."""
    published = case.hparams
    return TargetOptimizer(
        steps=published["v_num_grad_steps"],
        learning_rate=float(published["v_lr"]),
        kl_weight=float(published["kl_factor"]),
        decay=float(published["v_weight_decay"]),
        max_norm_ratio=float(published["clamp_norm_factor"]),
        reference=reference,
        loss_layer=published.get("v_loss_layer") if reference == "block" else None,
    )


def _regularizers(case: Case) -> dict[str, Regularizer]:
    published, chosen = case.hparams, dict[str, Regularizer]()
    if published.get("prob_cutoff", 0) < 0:
        chosen["mpes"] = MPES(hits=-published["prob_cutoff"])
    if published.get("update_norm_lambda", 0) > 0:
        chosen["norm_constraint"] = NormConstraint(weight=float(published["update_norm_lambda"]))
    if published.get("add_prev_edits") and published.get("sequential"):
        chosen["history"] = History()
    return chosen


def _moments(case: Case) -> GivenMoments:
    return GivenMoments(matrices={layer: case.moment(layer).double() for layer in case.hparams["layers"]})


def _rome_moments(case: Case) -> GivenMoments:
    """Only the published ROME can do without second moments; the other methods ignore the switch."""
    if case.hparams["mom2_adjustment"]:
        return _moments(case)
    width = case.input_width
    return GivenMoments(matrices={layer: torch.eye(width).double() for layer in case.hparams["layers"]})


def _memit(case: Case) -> Editor:
    return MEMIT(
        name=case.method,
        layers=case.hparams["layers"],
        targets=_targets(case, "block"),
        contexts=GivenContexts(templates=case.contexts),
        moments=_moments(case),
        preservation_weight=float(case.hparams["mom2_update_weight"]),
        regularizers=_regularizers(case),
    )


def _rome(case: Case) -> Editor:
    return ROME(
        name=case.method,
        layers=case.hparams["layers"],
        targets=_targets(case, "mlp"),
        contexts=GivenContexts(templates=case.contexts),
        moments=_rome_moments(case),
    )


METHODS: dict[str, Callable[[Case], Editor]] = {"rome": _rome, "memit": _memit, "encore": _memit}
