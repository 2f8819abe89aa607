"""UltraEdit: one pass forward and back, and a ridge regression of every named matrix.

For the tokens of a batch, h are the inputs of a matrix (rows of H) and g the gradients of the loss by its
outputs. Both are standardised by the mean and deviation over all tokens of all edits so far, this batch
included (ĥ, ĝ), and
  v = −η ‖ĥ‖² ĝ for every token (rows of V),
  Δ = Vᵀ H (Hᵀ H + I)⁻¹ = Vᵀ (H Hᵀ + I)⁻¹ H,
the least-squares map from keys, not standardised, to the intended changes of value. The tokens are all of
prompt and target, the last one too. Nothing is trained, and only the statistics are remembered.

Source: Gu et al. 2025 (arXiv 2505.14679) and EasyEdit `models/ultraedit`. As there, matrices of equal
shape share their statistics. Deviations: the loss sums over target tokens and is not a mean over a chunk of
facts, so that a fact's gradient does not depend on the others (standardising removes the factor); sums of
squares are exact (theirs count n for n − 1) and kept in float64.
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
from editors.models.gradients import TokenGradients, read_targets
from editors.models.model import Model
from editors.moments.running import RunningStatistics
from editors.updates import Delta, Site

EPSILON = torch.finfo(torch.float32).eps
"""Added to a deviation before dividing by it, as published."""


@dataclass(frozen=True, kw_only=True)
class LifelongEdit(Edit):
    """An edit, with the statistics to remember once it is applied."""

    statistics: Mapping[str, RunningStatistics]


@dataclass(kw_only=True)
class UltraEdit(GradientEditor):
    """Ridge regression from keys to standardised gradients; its memory does not grow."""

    layers: Sequence[int]
    """Blocks that may be edited."""
    matrices: Mapping[str, Sequence[int]]
    """Edited matrices: the blocks of each site; blocks outside of `layers` are not edited."""
    learning_rate: float = 1e-6
    """η, scale of the intended changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("editor", learning_rate=self.learning_rate)
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

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        """Check that the model has the matrices, and the shapes of the statistics so far."""
        super().prepare(model, facts)
        groups = {_group(model, site) for site in self.sites}
        if not set(self._statistics) <= groups:
            raise ConfigError(f"{self.name} was used on another model than {model.name}; make a new editor")

    def edit(self, model: Model, facts: Sequence[Fact]) -> LifelongEdit:
        """Find keys and gradients of all matrices in one pass, then solve for each.

        Raises:
            NumericsError: for a loss or an update with NaN or infinity; the weights were not touched.
        """
        begun = time.perf_counter()
        lowest = min(site.layer for site in self.sites)
        evaluation = read_targets(model, facts, "teacher_forced", lowest).evaluate(self.sites)
        gradients = {
            site: TokenGradients(matrix.keys.double(), matrix.outputs.double())
            for site, matrix in evaluation.gradients(evaluation.losses.sum()).items()
        }
        read = time.perf_counter()
        statistics = self._merged_statistics(model, gradients)
        solved = {
            site: _solve(matrix, statistics[_group(model, site)], self.learning_rate)
            for site, matrix in gradients.items()
        }
        update = self.regularized(solved, model, facts)
        seconds = {"gradients": read - begun, "solve": time.perf_counter() - read}
        tokens = len(next(iter(gradients.values())).keys)
        diagnostics = {"loss_start": float(evaluation.losses.detach().mean()), "tokens": float(tokens)}
        return LifelongEdit(update=update, diagnostics=diagnostics, seconds=seconds, statistics=statistics)

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Remember the statistics of an applied edit."""
        assert isinstance(edit, LifelongEdit), "another editor made this edit"
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
        """Restore the statistics, bit for bit."""
        super().load_state_dict(state)
        groups = dict.fromkeys(key.rsplit(".", 1)[0] for key in state if key != "edits")
        self._statistics = {
            group: RunningStatistics(*(state[f"{group}.{part}"] for part in ("count", "mean", "square")))
            for group in groups
        }

    def _merged_statistics(
        self, model: Model, gradients: Mapping[Site, TokenGradients]
    ) -> dict[str, RunningStatistics]:
        """The statistics of all tokens so far, this batch included."""
        merged = dict(self._statistics)
        for site, matrix in gradients.items():
            group, batch = _group(model, site), RunningStatistics.of(matrix.features())
            merged[group] = merged[group].on(matrix.keys.device).merged(batch) if group in merged else batch
        return merged


def _solve(gradients: TokenGradients, statistics: RunningStatistics, learning_rate: float) -> Delta:
    """Δ = Vᵀ H (Hᵀ H + I)⁻¹, solved on the smaller side: (token, token) if tokens are fewer than inputs."""
    keys, (tokens, width) = gradients.keys, gradients.keys.shape
    standardised = statistics.standardised(gradients.features(), EPSILON)
    key, gradient = standardised.split([width, gradients.outputs.shape[1]], dim=1)
    values = -learning_rate * (key**2).sum(dim=1, keepdim=True) * gradient
    if tokens <= width:
        return Delta(left=_ridge_inverse(keys @ keys.T, values).T, right=keys.T)
    return Delta(left=_ridge_inverse(keys.T @ keys, keys.T @ values).T)


def _ridge_inverse(gram: Float[Tensor, "n n"], right: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """(G + I)⁻¹ B by Cholesky."""
    gram.diagonal().add_(1)
    factor, _ = torch.linalg.cholesky_ex(gram)  # NaN if the input is not finite; checked with the update
    return torch.cholesky_solve(right, factor)


def _group(model: Model, site: Site) -> str:
    """The key of the statistics that matrices of one shape share."""
    out, wide = model.weight(site.name, site.layer).shape
    return f"{wide}x{out}"
