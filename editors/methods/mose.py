"""MOSE: the inputs of a matrix are rotated, so that its norm and its singular values cannot change.

W = W₀ Rᵀ with R block-diagonal and orthogonal, R_b = (I − S_b) (I + S_b)⁻¹ (Cayley) for skew-symmetric S_b.
Adam on all S minimises the mean over facts of the mean over target tokens of −log P(token). One S serves all
edits of a sequence: each continues where the last one ended, and the edit is ΔW = W₀ (R − R_before)ᵀ. After
every step each S_b is scaled back to ‖S_b‖ ≤ bound · width² / √blocks with its width.

It is the control for all that is said about norms: what it damages, no growth of a norm or a singular value
did.

Source: arXiv 2601.07873 and famoustourist/MOSE `easyeditor/models/oft`, which is orthogonal fine-tuning (OFT,
arXiv 2306.07280) with a bound.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from editors.base import Edit
from editors.data import Fact
from editors.errors import ConfigError, check_positive
from editors.methods.gradient_editor import AdamEditor
from editors.models.gradients import Evaluation, Objective
from editors.models.model import Model
from editors.phases import Report, silent
from editors.updates import Delta, Site, at_least_float32, sites_of

Skew = Float[Tensor, "block width width"]


@dataclass(frozen=True, kw_only=True)
class EditWithRotation(Edit):
    """An edit and the rotations that `commit` stores."""

    skew: Mapping[Site, Tensor]


@dataclass(kw_only=True)
class OrthogonalEditing(AdamEditor):
    """Adam on the rotations of the inputs of some matrices, which are remembered between edits."""

    layers: Sequence[int]
    """Rotated blocks."""
    matrices: Sequence[str] = ("mlp_down",)
    """Rotated matrices of each block."""
    blocks: int = 4
    """Blocks of the rotation; more have fewer parameters and change less."""
    bound: float = 1e-5
    """Largest ‖S_b‖ √blocks / width², over all edits together."""
    objective: Objective = "teacher_forced"
    steps: int = 25
    learning_rate: float = 5e-4
    facts_at_once: int = 1
    loss_threshold: float = 0.0

    _start: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)
    """W₀."""
    _skew: dict[Site, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("editor", blocks=self.blocks, bound=self.bound)

    @property
    def sites(self) -> Sequence[Site]:
        """Every named matrix of every rotated block."""
        return sites_of(self.layers, self.matrices)

    def check(self, model: Model) -> None:
        """Check that the model has the matrices, and that their inputs divide into the blocks."""
        super().check(model)
        for site in self.sites:
            width = model.weight(*site).shape[1]
            if width % self.blocks:
                raise ConfigError(f"editor.blocks={self.blocks} does not divide the {width} inputs of {site}")

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Keep the unedited matrices, and start without a rotation."""
        super().prepare(model, facts, report)
        for site in self.sites:
            if site not in self._start:
                weight = at_least_float32(model.current(site))
                width = weight.shape[1] // self.blocks
                self._start[site] = weight.clone()
                self._skew[site] = weight.new_zeros(self.blocks, width, width)

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: three copies of the matrices, five of the rotations, and the graph."""
        graph, size = super().memory(model, facts), 0
        for site in self.sites:
            weight = model.current(site)
            size += 3 * weight.numel() + 5 * weight.shape[1] ** 2 // self.blocks
        return 4 * size + graph

    def edit(self, model: Model, facts: Sequence[Fact]) -> EditWithRotation:
        """Rotate further, write the weights back and return the change.

        Raises:
            NumericsError: for a loss or a change with NaN or infinity; the weights are as they were.
        """
        begun = time.perf_counter()
        before = model.snapshot(self.sites)
        skew = {site: self._skew[site].clone() for site in self.sites}
        try:
            diagnostics = self._train(model, facts, before, skew)
        finally:
            model.restore(before)
        change = {
            site: Delta(left=self._rotated(site, skew[site]) - self._rotated(site, self._skew[site]))
            for site in self.sites
        }
        update = self.regularized(change, model, facts)
        diagnostics["drift_norm"] = sum(delta.square() for delta in update.values()) ** 0.5
        seconds = {"training": time.perf_counter() - begun}
        return EditWithRotation(update=update, diagnostics=diagnostics, seconds=seconds, skew=skew)

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Remember the rotations of an applied edit."""
        assert isinstance(edit, EditWithRotation), "another editor made this edit"
        super().commit(model, facts, edit)
        self._skew = dict(edit.skew)

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of edits, and S of every matrix."""
        return super().state_dict(since) | {f"skew.{site}": skew for site, skew in self._skew.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue with these rotations, after `prepare`."""
        super().load_state_dict(state)
        self._skew = {site: state[f"skew.{site}"].to(skew) for site, skew in self._skew.items()}

    def _train(
        self, model: Model, facts: Sequence[Fact], before: Mapping[Site, Tensor], skew: Mapping[Site, Tensor]
    ) -> dict[str, float]:
        """Change S in place, writing the rotated matrices into the model after every step."""
        adam = self.adam(skew.values())
        # W less what the rotation so far has made of W₀, to which every new rotation is added
        rest = {site: at_least_float32(before[site]) - self._rotated(site, skew[site]) for site in skew}
        rotations = {site: _Rotation(self._start[site], matrix) for site, matrix in skew.items()}

        def step(evaluation: Evaluation, loss: Float[Tensor, ""]) -> None:
            for site, gradients in evaluation.gradients(loss).items():
                skew[site].grad = rotations[site].gradient(gradients.weight_gradient())
            adam.step()
            for site, matrix in skew.items():
                matrix.mul_(self._shrinkage(matrix))
                rotations[site] = _Rotation(self._start[site], matrix)
                model.write(site, rest[site] + rotations[site].weight.detach())

        return self.minimise(model, facts, self.sites, step)

    def _rotated(self, site: Site, skew: Skew) -> Float[Tensor, "out in"]:
        return _Rotation(self._start[site], skew).weight.detach()

    def _shrinkage(self, skew: Skew) -> Float[Tensor, "block 1 1"]:
        """The factors that scale each S_b back to its bound."""
        largest = self.bound * skew.shape[1] ** 2 / math.sqrt(len(skew))
        norms = skew.norm(dim=(1, 2), keepdim=True)
        return (largest / norms.clamp(min=largest)).to(skew)


def cayley(skew: Skew) -> Skew:
    """(I − S) (I + S)⁻¹ for the skew-symmetric part of S, which is orthogonal."""
    skew = 0.5 * (skew - skew.transpose(1, 2))
    one = torch.eye(skew.shape[1]).to(skew)
    # I + S is never singular; without the check a GPU need not be waited for
    return torch.linalg.solve_ex(one + skew, one - skew, left=False).result


class _Rotation:
    """W₀ Rᵀ for one S, with the graph that leads back to it."""

    @torch.enable_grad()
    def __init__(self, start: Float[Tensor, "out in"], skew: Skew) -> None:
        self._skew = skew.detach().clone().requires_grad_()
        parts = start.view(len(start), len(skew), -1)
        self.weight = torch.einsum("obi,bji->obj", parts, cayley(self._skew)).reshape(start.shape)

    def gradient(self, by_weight: Float[Tensor, "out in"]) -> Skew:
        """∂loss/∂S from ∂loss/∂W."""
        (gradient,) = torch.autograd.grad(self.weight, self._skew, by_weight.to(self.weight))
        return gradient
