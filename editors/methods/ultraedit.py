"""UltraEdit and StableEdit: one forward and one backward pass, and a ridge regression for every named matrix.

For the tokens of a batch, h are the inputs of a matrix (rows of H) and g the gradients of the loss with
respect to its outputs. Both are standardised with the mean and standard deviation over all tokens of all
edits so far, including this batch (ĥ, ĝ), and
  v = −η ‖ĥ‖² ĝ for every token (rows of V),
  Δ = Vᵀ H (Hᵀ H + α I)⁻¹ = Vᵀ (H Hᵀ + α I)⁻¹ H,
the ridge-regression map from the raw (unstandardised) keys to the intended changes of the outputs. All tokens
of prompt and target are used, including the last. There is no training; the only state kept between edits is
these statistics.
  StableEdit uses only the tokens that predict a target, and whitens their gradients: ĝ = Σ^(−1/2) (g − mean)
with the covariance Σ over all edits so far, once there are more tokens than g has dimensions.

Source: Gu et al. 2025 (arXiv 2505.14679) and EasyEdit `models/ultraedit`; StableEdit is arXiv 2605.11836 and
MINE-USTC/StableEdit. As there, matrices of equal shape share their statistics. Deviations: the loss sums over
target tokens and is not a mean over a chunk of facts, so that a fact's gradient does not depend on the others
(standardising removes the factor); sums of squares are exact (the published code counts n instead of n − 1)
and kept in float64; StableEdit's warm-up is left out, by which it writes other facts before those of the run.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Cause, Edit
from editors.data import Fact
from editors.errors import ConfigError, check_positive
from editors.methods.gradient_editor import GradientEditor
from editors.models.gradients import TokenGradients, read_targets
from editors.models.model import Model
from editors.moments.running import RunningStatistics
from editors.phases import Report, silent
from editors.updates import Delta, Site

EPSILON = torch.finfo(torch.float32).eps
"""Added to the standard deviation before dividing by it, as in the published code."""


@dataclass(frozen=True, kw_only=True)
class EditWithStatistics(Edit):
    """An edit and the running statistics that `commit` stores."""

    statistics: Mapping[str, RunningStatistics]


@dataclass(kw_only=True)
class UltraEdit(GradientEditor):
    """Ridge regression from keys to standardised gradients.

    Memory use does not grow with the number of edits.
    """

    layers: Sequence[int]
    """Blocks that may be edited."""
    matrices: Mapping[str, Sequence[int]]
    """Edited matrices: the blocks of each site; blocks outside `layers` are not edited."""
    learning_rate: float = 1e-6
    """η, scale of the intended changes."""
    ridge: float = 1.0
    """α, by which the regression is damped; a larger one gives smaller updates."""
    predicting: bool = False
    """Whether only tokens that predict a target are used (StableEdit), or all of prompt and target."""
    whitening: bool = False
    """Whether gradients are whitened by their covariance (StableEdit), or standardised one by one."""

    check_every: ClassVar[int] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("editor", learning_rate=self.learning_rate, ridge=self.ridge)
        if not self.sites:
            raise ConfigError(
                f"layers.edit={list(self.layers)} holds no block of editor.matrices={dict(self.matrices)}; "
                "set one of the two"
            )
        self._statistics: dict[str, RunningStatistics] = {}

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix inside `layers`, by block."""
        named = [Site(name, layer) for name, blocks in self.matrices.items() for layer in blocks]
        return sorted((site for site in named if site.layer in self.layers), key=lambda site: site.layer)

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """The scale of the intended changes, and the edited matrices."""
        blocks = [site.layer for site in self.sites]
        return {
            "edit": f"raise editor.learning_rate ({self.learning_rate:g}) or edit more blocks "
            f"(layers.edit={sorted(set(blocks))})"
        }

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Check that the model has the edited matrices, and that their shapes match the statistics so far."""
        super().prepare(model, facts, report)
        shapes = {_shape_key(model, site) for site in self.sites}
        if not set(self._statistics) <= shapes:
            raise ConfigError(
                f"{self.name} holds statistics of a model with other matrix shapes than {model.name}; "
                "make a new editor"
            )

    def edit(self, model: Model, facts: Sequence[Fact]) -> EditWithStatistics:
        """Compute keys and gradients of all matrices in one pass, then solve for each.

        Raises:
            NumericsError: for a loss or an update with NaN or infinity; the weights were not touched.
        """
        start_time = time.perf_counter()
        lowest = min(site.layer for site in self.sites)
        evaluation = read_targets(model, facts, "teacher_forced", lowest).evaluate(self.sites)
        gradients = {
            site: TokenGradients(token_gradients.keys.double(), token_gradients.outputs.double())
            for site, token_gradients in evaluation.gradients(
                evaluation.losses.sum(), predicting=self.predicting
            ).items()
        }
        solve_start_time = time.perf_counter()
        statistics = self._merged_statistics(model, gradients)
        solved = {
            site: _solve(token_gradients, statistics[_shape_key(model, site)], self.learning_rate, self.ridge)
            for site, token_gradients in gradients.items()
        }
        update = self.regularized(solved, model, facts)
        seconds = {
            "gradients": solve_start_time - start_time,
            "solve": time.perf_counter() - solve_start_time,
        }
        tokens = len(next(iter(gradients.values())).keys)
        diagnostics = {"loss_start": float(evaluation.losses.detach().mean()), "tokens": float(tokens)}
        return EditWithStatistics(
            update=update, diagnostics=diagnostics, seconds=seconds, statistics=statistics
        )

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Store the statistics of an applied edit."""
        assert isinstance(edit, EditWithStatistics), "another editor made this edit"
        self._statistics = dict(edit.statistics)
        super().commit(model, facts, edit)

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of edits; count, mean and square of every shape of matrix, and products if whitened."""
        return super().state_dict(since) | {
            f"{shape_key}.{part}": value
            for shape_key, statistics in self._statistics.items()
            for part, value in vars(statistics).items()
            if value is not None
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the statistics, bit for bit."""
        super().load_state_dict(state)
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key != "edits":
                shape_key, part = key.rsplit(".", 1)
                parts.setdefault(shape_key, {})[part] = value
        self._statistics = {shape_key: RunningStatistics(**named) for shape_key, named in parts.items()}

    def _merged_statistics(
        self, model: Model, gradients: Mapping[Site, TokenGradients]
    ) -> dict[str, RunningStatistics]:
        """The statistics of all tokens so far, including this batch."""
        merged = dict(self._statistics)
        for site, token_gradients in gradients.items():
            whitened = token_gradients.outputs.shape[1] if self.whitening else 0
            shape_key = _shape_key(model, site)
            batch = RunningStatistics.of(token_gradients.features(), whitened)
            if shape_key in merged:
                batch = merged[shape_key].on(token_gradients.keys.device).merged(batch)
            merged[shape_key] = batch
        return merged


def _solve(
    gradients: TokenGradients, statistics: RunningStatistics, learning_rate: float, ridge: float = 1.0
) -> Delta:
    """Δ = Vᵀ H (Hᵀ H + α I)⁻¹, solved on the smaller side.

    The system is (token, token) if there are no more tokens than inputs.
    """
    keys, (tokens, width) = gradients.keys, gradients.keys.shape
    standardised_features = statistics.whitened(gradients.features(), EPSILON)
    standardised_keys, standardised_gradients = standardised_features.split(
        [width, gradients.outputs.shape[1]], dim=1
    )
    values = -learning_rate * (standardised_keys**2).sum(dim=1, keepdim=True) * standardised_gradients
    if tokens <= width:
        return Delta(left=_ridge_solve(keys @ keys.T, values, ridge).T, right=keys.T)
    return Delta(left=_ridge_solve(keys.T @ keys, keys.T @ values, ridge).T)


def _ridge_solve(gram: Float[Tensor, "n n"], rhs: Float[Tensor, "n m"], ridge: float) -> Float[Tensor, "n m"]:
    """Solve (G + α I) X = B by Cholesky. Overwrites the diagonal of gram."""
    gram.diagonal().add_(ridge)
    factor, _ = torch.linalg.cholesky_ex(gram)  # NaN if the input is not finite; checked with the update
    return torch.cholesky_solve(rhs, factor)


def _shape_key(model: Model, site: Site) -> str:
    """The key of the statistics that matrices of one shape share."""
    outputs, inputs = model.weight(site.name, site.layer).shape
    return f"{inputs}x{outputs}"
