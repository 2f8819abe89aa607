"""What an edit reports about itself, and its refusal of numbers that are not finite."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Targets
from editors.data import Fact
from editors.errors import NumericsError


def strengths(preservation: float, ridge: float) -> dict[str, float]:
    """Strengths that can be compared across models: λp tr(C)/d, the mean eigenvalue of what is preserved, and
    r = λn d / (λp tr C), the norm constraint beside it."""
    share = {"constraint_share": ridge / preservation} if ridge and preservation else {}
    return {"preservation": preservation} | share


def check_finite(finite: bool, what: str, facts: Sequence[Fact], targets: Targets) -> None:
    """Raise a NumericsError that names `what` and the fact of the largest target, unless it is finite."""
    if finite:
        return
    norms = _norms(targets.vectors)
    worst = int(norms.nan_to_num(float("inf")).argmax())
    raise NumericsError(
        f"{what} is not finite while editing {len(facts)} facts; the largest "
        f"target is that of fact {facts[worst].id}, norm {float(norms[worst]):.3g}; nothing was changed"
    )


def details(
    targets: Targets, memory: Mapping[int, Tensor], residuals: Float[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    """Diagnostics per fact: norms of the target, of the vector before it, of the keys (means over layers) and
    of the residual at the first edited layer; steps and loss of the target's optimisation, and whether it was
    correct (`Targets`)."""
    keys = torch.stack([k.norm(dim=0) for k in memory.values()])
    return {
        "target_norm": _norms(targets.vectors).double().cpu(),
        "initial_norm": _norms(targets.initial).double().cpu(),
        "key_norm": keys.double().mean(dim=0).cpu(),
        "residual_norm": residuals.double().cpu(),
        "optimiser_steps": targets.steps.double().cpu(),
        "target_loss": targets.losses.double().cpu(),
        "target_correct": targets.correct.double().cpu(),
    }


def _norms(vectors: Float[Tensor, "fact layer width"]) -> Float[Tensor, " fact"]:
    """The norm of every fact's vector, as a mean over the layers."""
    return vectors.norm(dim=2).mean(dim=1)
