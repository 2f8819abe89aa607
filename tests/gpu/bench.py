"""What the parts share: the device, one model at a time, and editors with published values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editors.base import Editor
from editors.data import Fact
from editors.locate.base import LocateThenEdit
from editors.locate.contexts import GivenContexts
from editors.methods.gradient_editor import AdamEditor
from editors.models.model import Model
from editors.moments.moment_sources import SITE, Spectrum
from editors.phases import Report, silent
from editors.regularizers.base import Regularizer
from pipeline.build import Parts, build
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from pipeline.notebook.composition import composed
from tests.benchmarks.measure import timed
from tests.benchmarks.workbench import Workbench, facts
from tests.gpu.shapes import FULL, SMALL, Scale, free_device, made

GIB = 2**30
Row = dict[str, str | float | bool]
"""`what` was measured, and numbers; seconds end in `_s`, memory in `_gib`."""
BUILT_IN = ("data=world", "corpus@model.corpus=world", "tracker=none")
"""Facts and texts that every checkout has."""
UNPUBLISHED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("qwen2.5-7b", "encore"): {
        "layers": {"edit": [4, 5, 6, 7, 8]},
        "editor": {"preservation_weight": 15000.0},
    }
}
"""Values of pairs that `conf/hparams` has none for: those of MEMIT."""


class StopAfter(Regularizer):
    """A stop rule that ends every target after a number of evaluations; 0 never."""

    point = "stop"

    def __init__(self) -> None:
        self.evaluations = 0

    @property
    def patience(self) -> int:
        """The number of evaluations."""
        return self.evaluations

    def satisfied(self, correct: Bool[Tensor, "fact template"]) -> Bool[Tensor, " fact"]:
        """Always."""
        return torch.ones_like(correct[:, 0])


@dataclass(frozen=True, kw_only=True)
class RandomMoments:
    """Second moments with a condition number of about 34, and a spectrum of which three quarters are null.

    All blocks share them, so that the numbers are made once; the spectrum is not that of the matrix, whose
    eigenvectors would take minutes.
    """

    label = "random"

    def load(
        self, model: Model, layers: Sequence[int], report: Report = silent
    ) -> Mapping[int, Float[Tensor, "in in"]]:
        """K Kᵀ / n of n = 2 d random keys, in float32."""
        width = model.weight(SITE, layers[0]).shape[1]
        keys = torch.randn(width, 2 * width, device=model.device)
        return dict.fromkeys(layers, keys @ keys.T / (2 * width))

    def spectra(self, model: Model, layers: Sequence[int], report: Report = silent) -> Mapping[int, Spectrum]:
        """Random directions, three of four with the eigenvalue 0 and the others with 1."""
        width = model.weight(SITE, layers[0]).shape[1]
        directions, _ = torch.linalg.qr(torch.randn(width, width, device=model.device))
        values = (torch.arange(width, device=model.device) >= 3 * width // 4).double()
        return dict.fromkeys(layers, Spectrum(values=values, vectors=directions.double()))


class Bench:
    """The device and the current model."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.scale: Scale = FULL if self.device.type == "cuda" else SMALL
        self.stop = StopAfter()
        """The stop rule of every editor that has targets."""
        self._workbench = Workbench()
        self._model: Model | None = None

    def model(self, name: str) -> Model:
        """The model of a shape; the one before it is given back."""
        if self._model is None or self._model.name != name:
            self._model = None
            free_device()
            self._model = made(name, self.device, self._workbench.tokenizer, narrow=self.scale.narrow)
        return self._model

    def parts(self, name: str, editor: str, *choices: str) -> Parts:
        """The objects of a run on the built-in facts, with the values published for the model."""
        chosen = [f"model={name}", f"editor={editor}", *BUILT_IN]
        return build(composed([*chosen, *choices], UNPUBLISHED.get((name, editor), {})))

    def editor(self, name: str, editor: str) -> Editor:
        """An editor with a fixed number of steps, given contexts and random second moments."""
        intervention = self.parts(name, editor, "stage=[norms]").intervention
        assert isinstance(intervention, KnowledgeEdit)
        chosen = intervention.editor
        if isinstance(chosen, AdamEditor):
            return replace(chosen, steps=self.scale.steps, loss_threshold=0.0)
        if not isinstance(chosen, LocateThenEdit):
            return chosen
        groups = self._workbench.rome_contexts if editor == "rome" else self._workbench.memit_contexts
        rules = {key: rule for key, rule in chosen.regularizers.items() if not rule.patience}
        return replace(
            chosen,
            contexts=GivenContexts(templates=groups),
            moments=RandomMoments(),
            targets=replace(chosen.targets, steps=self.scale.steps, loss_threshold=0.0),
            regularizers=rules | {"stop": self.stop},
        )

    def facts(self, count: int | None = None) -> list[Fact]:
        """A batch."""
        return facts(self.scale.facts if count is None else count)

    def measured(self, work: Callable[[], object]) -> dict[str, float]:
        """Seconds of the work and, on a GPU, the largest memory that tensors take meanwhile, in GiB."""
        if self.device.type != "cuda":
            return {"total_s": timed(work)}
        torch.cuda.reset_peak_memory_stats()
        seconds = timed(work)
        return {"total_s": seconds, "peak_gib": torch.cuda.max_memory_allocated() / GIB}


def weights_gib(model: Model) -> float:
    """The weights of a model."""
    return sum(weight.nbytes for weight in model.hf.parameters()) / GIB
