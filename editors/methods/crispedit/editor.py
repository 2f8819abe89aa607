"""CrispEdit: FT-M whose gradients lose what lies in directions of large curvature of the loss on text.

For every trained matrix, Adam is given U_B ((U_Bᵀ G U_A) ∘ M) U_Aᵀ in place of the gradient G; U_A, U_B and M
come from the Kronecker factors of the curvature (`curvature.py`). M leaves out the directions of largest
curvature that hold the share `energy` of it. The curvature is that of the unedited model on a corpus; with
`remember`, the tokens of all facts edited so far are added, each with the weights after its edit.

Source: arXiv 2602.15823 and zarifikram/CrispEdit `crispedit.py`, `easyeditor/models/crispedit`. Deviations:
the loss is the mean over facts of the mean over their target tokens, not over all target tokens of a batch;
every edit begins with a new Adam, also with `remember`; the factors are not measured again when the weights
have moved far (`recalculate_cache`); `remember` adds all facts where the published code draws some.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from editors.base import Cause, Edit
from editors.data import Fact
from editors.errors import ConfigError
from editors.methods.crispedit.curvature import Curvature, CurvatureSource, Projection, add_tokens, zeros
from editors.methods.finetune import FineTuning
from editors.models.gradients import Objective
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.phases import Report, silent
from editors.updates import Site


@dataclass(kw_only=True)
class CrispEdit(FineTuning):
    """Adam on gradients that are projected onto directions of low curvature."""

    curvature: CurvatureSource
    energy: float = 0.99
    """Share of the curvature whose directions are left alone."""
    remember: bool = True
    """Whether the curvature of facts edited before counts as well."""
    objective: Objective = "teacher_forced"

    _text: Mapping[Site, Curvature] = field(default_factory=dict, init=False, repr=False)
    _edited: dict[Site, Curvature] = field(default_factory=dict, init=False, repr=False)
    _projections: dict[Site, Projection] = field(default_factory=dict, init=False, repr=False)
    """Of the curvature so far; empty while it is not computed."""

    _FACTS_AT_ONCE: ClassVar[int] = 16
    """Facts of one pass that adds their curvature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.energy < 1:
            raise ConfigError(f"editor.energy={self.energy}, but it is a share between 0 and 1")

    @property
    def statistics(self) -> str:
        """The text that the curvature is measured on."""
        return self.curvature.label

    @property
    def remedies(self) -> Mapping[Cause, str]:
        """The length of the training, and the directions that it may take."""
        return {"edit": f"{super().remedies['edit']}, or lower editor.energy ({self.energy:g})"}

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Check the matrices, and measure the curvature of the unedited model's loss on the text."""
        super().prepare(model, facts, report)
        if not self._text:
            self._text = self.curvature.load(model, self.sites, report)

    def memory(self, model: Model, facts: Sequence[Fact]) -> int:
        """Bytes beside the model: as FT, two sums, eigenvectors and their product by a mask, in float64."""
        shapes = [model.current(site).shape for site in self.sites]
        factors = sum(3 * (out**2 + width**2) + 2 * out * width for out, width in shapes)
        return super().memory(model, facts) + 8 * factors

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """Train on the facts along the free directions, write W₀ back and return the change.

        Raises:
            NumericsError: for a loss, a curvature or a change with NaN or infinity; the weights are as they
                were.
        """
        begun = time.perf_counter()
        self._project(model)
        found = time.perf_counter() - begun
        edit = super().edit(model, facts)
        shares = [projection.share for projection in self._projections.values()]
        free = {"free_share": sum(shares) / len(shares)}
        return replace(
            edit, diagnostics={**edit.diagnostics, **free}, seconds={**edit.seconds, "solve": found}
        )

    def descent(self, site: Site, gradient: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The gradient without directions of large curvature."""
        return self._projections[site](gradient)

    def commit(self, model: Model, facts: Sequence[Fact], edit: Edit) -> None:
        """Count the facts, and add the curvature of their loss on the edited weights."""
        super().commit(model, facts, edit)
        if not self.remember:
            return
        self._projections = {}
        if not self._edited:
            self._edited = zeros(model, self.sites)
        rows = [tokenize_prompt(model.tokenizer, fact, target=fact.target_new).ids for fact in facts]
        for start in range(0, len(rows), self._FACTS_AT_ONCE):
            add_tokens(model, rows[start : start + self._FACTS_AT_ONCE], self._edited)

    def state_dict(self, since: int = 0) -> dict[str, Tensor]:
        """The number of edits, the state of the regularizers, and the sums over the edited facts."""
        return super().state_dict(since) | {
            f"{site.name}.{site.layer}.{part}": tensor
            for site, curvature in self._edited.items()
            for part, tensor in curvature.tensors().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from them, after `prepare`."""
        super().load_state_dict(state)
        self._projections = {}
        self._edited = {
            site: Curvature.of({part: state[f"{name}.{part}"] for part in ("inputs", "outputs", "count")})
            for site, name in ((site, f"{site.name}.{site.layer}") for site in self.sites)
            if f"{name}.count" in state
        }

    def _project(self, model: Model) -> None:
        """Find the free directions, unless nothing was added since."""
        if self._projections:
            return
        for site, text in self._text.items():
            whole = text + self._edited[site] if site in self._edited else text
            self._projections[site] = whole.projection(self.energy, model.current(site).device)
