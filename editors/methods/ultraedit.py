"""UltraEdit: one pass forward and back, and a ridge regression of every named matrix.

For the tokens of a batch, h are the inputs of a matrix (rows of H) and g the gradients of the loss by its
outputs. Both are standardised by the mean and deviation over all tokens of all edits so far, this batch
included (ĥ, ĝ), and
  v = −η ‖ĥ‖² ĝ for every token (rows of V),
  Δ = Vᵀ H (Hᵀ H + I)⁻¹ = Vᵀ (H Hᵀ + I)⁻¹ H,
the least-squares map from keys, not standardised, to wanted changes of value. Tokens are all of prompt
and target, the last one too. Nothing is trained and nothing but the statistics is remembered.

Source: Gu et al. 2025 (arXiv 2505.14679) and EasyEdit `models/ultraedit`. As there, matrices of equal
shape share their statistics. Deviations: the loss sums over target tokens where theirs is the mean of a
chunk of facts, a factor that standardising removes, so that a fact's gradient does not depend on its
company; sums of squares are exact (theirs count n for n − 1) and kept in float64.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError, check_positive
from editors.methods.gradient_editor import GradientEditor
from editors.models.gradients import Pull, read_targets
from editors.models.model import Model
from editors.moments.running import Statistics
from editors.updates import Delta, Site

EPSILON = torch.finfo(torch.float32).eps
"""Added to a deviation before dividing by it, as published."""


@dataclass(frozen=True, kw_only=True)
class LifelongEdit(Edit):
    """An edit and the statistics that hold once it was applied."""

    statistics: Mapping[str, Statistics]


@dataclass(kw_only=True)
class UltraEdit(GradientEditor):
    """Ridge regression from keys to standardised gradients; its memory does not grow."""

    layers: Sequence[int]
    """Blocks that may be edited."""
    matrices: Mapping[str, Sequence[int]]
    """Edited matrices: the blocks of each site; those outside of `layers` are left alone."""
    learning_rate: float = 1e-6
    """η."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("editor", learning_rate=self.learning_rate)
        if not self.sites:
            raise ConfigError(
                f"layers.edit={list(self.layers)} holds no block of editor.matrices={dict(self.matrices)}; "
                "set one of the two"
            )
        self._statistics: dict[str, Statistics] = {}

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix inside `layers`, by block."""
        named = [Site(name, layer) for name, blocks in self.matrices.items() for layer in blocks]
        return sorted((site for site in named if site.layer in self.layers), key=lambda site: site.layer)

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        """Check that the model has the matrices, and the widths that were seen so far."""
        super().prepare(model, facts)
        groups = {_group(model, site) for site in self.sites}
        if not set(self._statistics) <= groups:
            raise ConfigError(f"{self.name} has seen another model than {model.name}; make a new editor")

    def edit(self, model: Model, facts: Sequence[Fact]) -> LifelongEdit:
        """Find keys and gradients of all matrices in one pass, then solve for each.

        Raises:
            NumericsError: for a loss or an update with NaN or infinity; the weights were not touched.
        """
        begun = time.perf_counter()
        lowest = min(site.layer for site in self.sites)
        evaluation = read_targets(model, facts, "teacher_forced", lowest).evaluate(self.sites)
        pulls = {site: _double(pull) for site, pull in evaluation.pulls(evaluation.losses.sum()).items()}
        seen = time.perf_counter()
        statistics = self._seen_with(model, pulls)
        update = {
            site: _solve(pull, statistics[_group(model, site)], self.learning_rate)
            for site, pull in pulls.items()
        }
        update = self.regularized(update, model, facts)
        seconds = {"gradients": seen - begun, "solve": time.perf_counter() - seen}
        tokens = len(next(iter(pulls.values())).keys)
        diagnostics = {"loss_start": float(evaluation.losses.detach().mean()), "tokens": float(tokens)}
        return LifelongEdit(update=update, diagnostics=diagnostics, seconds=seconds, statistics=statistics)

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Keep the statistics of an applied edit."""
        assert isinstance(edit, LifelongEdit), "this edit was made by another editor"
        self._statistics = dict(edit.statistics)
        super().commit(model, facts, edit)

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of edits; count, mean and square of every shape of matrix."""
        return super().state_dict(since) | {
            f"{group}.{part}": getattr(statistics, part)
            for group, statistics in self._statistics.items()
            for part in ("count", "mean", "square")
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the statistics over, bit for bit."""
        super().load_state_dict(state)
        groups = dict.fromkeys(key.rsplit(".", 1)[0] for key in state if key != "edits")
        self._statistics = {
            group: Statistics(*(state[f"{group}.{part}"] for part in ("count", "mean", "square")))
            for group in groups
        }

    def _seen_with(self, model: Model, pulls: Mapping[Site, Pull]) -> dict[str, Statistics]:
        """The statistics so far and those of this batch together."""
        merged = dict(self._statistics)
        for site, pull in pulls.items():
            group, new = _group(model, site), Statistics.of(_features(pull))
            merged[group] = merged[group].on(pull.keys.device).with_rows_of(new) if group in merged else new
        return merged


def _solve(pull: Pull, statistics: Statistics, learning_rate: float) -> Delta:
    """Δ = Vᵀ H (Hᵀ H + I)⁻¹, on the smaller side: no (in, in) matrix where tokens are fewer."""
    keys, count = pull.keys, len(pull.keys)
    wide = keys.shape[1]
    key, gradient = statistics.standardised(_features(pull), EPSILON).split(
        [wide, pull.gradients.shape[1]], dim=1
    )
    values = -learning_rate * (key**2).sum(dim=1, keepdim=True) * gradient
    if count <= wide:
        return Delta(left=_ridge_inverse(keys @ keys.T, values).T, right=keys.T)
    return Delta(left=_ridge_inverse(keys.T @ keys, keys.T @ values).T)


def _ridge_inverse(gram: Float[Tensor, "n n"], right: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """(G + I)⁻¹ B by Cholesky."""
    gram.diagonal().add_(1)
    factor, _ = torch.linalg.cholesky_ex(gram)  # NaN for what is not finite; checked with the update
    return torch.cholesky_solve(right, factor)


def _group(model: Model, site: Site) -> str:
    """Matrices of one shape share their statistics."""
    out, wide = model.weight(site.name, site.layer).shape
    return f"{wide}x{out}"


def _features(pull: Pull) -> Float[Tensor, "token both"]:
    return torch.cat([pull.keys, pull.gradients], dim=1)


def _double(pull: Pull) -> Pull:
    return Pull(pull.keys.double(), pull.gradients.double())
