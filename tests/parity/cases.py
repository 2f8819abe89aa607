"""Reading a folder of recorded cases."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from editors.data import Fact
from editors.locate.contexts import Groups
from editors.models.loading import Checkpoint
from editors.models.model import Model


@dataclass(frozen=True)
class Case:
    """One recorded run of one method."""

    folder: Path
    path: Path

    @cached_property
    def info(self) -> dict:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    @property
    def method(self) -> str:
        return self.info["method"]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def precision(self) -> str:
        return self.info["precision"]

    @property
    def hparams(self) -> dict:
        return self.info.get("hparams", {})

    @property
    def kind(self) -> str:
        """`single` edits each request on the unedited model, `batch` all at once, `sequential` one by one.

        `each` is as `single`, but of several matrices and without targets.
        """
        if "batch_size" in self.info:
            return "sequential"
        if any(key.startswith("00.update.") for key in self.tensors):
            return "each"
        return "single" if any(key.startswith("00.") for key in self.tensors) else "batch"

    @property
    def batch_size(self) -> int:
        return self.info.get("batch_size", len(self.facts))

    @property
    def tolerance(self) -> float:
        table = json.loads((self.folder / "tolerances.json").read_text())[self.precision]
        special = f"{self.kind}_memit_encore_pmet"
        rounded = self.method in ("memit", "encore", "pmet")
        return table[special] if rounded and special in table else table[self.kind.replace("each", "single")]

    @cached_property
    def facts(self) -> list[Fact]:
        rows = json.loads((self.folder / "inputs" / "requests.json").read_text())
        chosen = self.info.get("request_indices", self.info.get("edit_request_indices", ()))
        return [_fact(rows[i]) for i in chosen]

    @property
    def contexts(self) -> Groups:
        templates = json.loads((self.folder / "inputs" / "context_templates.json").read_text())
        chosen = templates[self.info["context_templates"]]
        return (tuple(chosen),) if isinstance(chosen[0], str) else tuple(tuple(group) for group in chosen)

    @property
    def targets(self) -> Tensor | None:
        """The recorded target vectors; PMET's are those of the MLP, which are what it inserts."""
        return self.tensors.get("zs", self.tensors.get("z_mlp"))

    @property
    def site(self) -> str:
        """Template of the edited module's name; PMET's `rewrite_module_tmp` is its attention module."""
        return self.hparams.get("rewrite_module_tmps", [self.hparams["rewrite_module_tmp"]])[0]

    @cached_property
    def projections(self) -> dict[int, Tensor] | None:
        """Recorded null-space projections of the same precision, which one case of a method holds for all."""
        for other in find_cases(self.folder, self.method):
            if other.precision == self.precision and "P" in other.tensors:
                return dict(zip(self.hparams["layers"], other.tensors["P"], strict=True))
        return None

    def moment(self, layer: int) -> Tensor:
        """The second moment of the keys of a layer."""
        stored = load_file(self.folder / "inputs" / "covariance.safetensors")
        return stored[self.site.format(layer)]

    @property
    def unsupported(self) -> bool:
        """Whether the case asks for something that no setting of ours expresses."""
        published = self.hparams
        return published.get("prob_cutoff", 0) > 0 or published.get("fact_token") not in (
            None,
            "subject_last",
        )

    def parameter(self, layer: int) -> str:
        return self.site.format(layer) + ".weight"

    def model(self) -> Model:
        return Checkpoint(
            name="recorded", path=str(self.folder / "model"), dtype=self.precision, device="cpu"
        ).load()

    def oriented(self, model: Model, layer: int, recorded: Tensor) -> Tensor:
        """A recorded weight or update as (out, in)."""
        module = model.hf.get_submodule(self.site.format(layer))
        assert module is model.module("mlp_down", layer), "only down projections are compared"
        return recorded.T if isinstance(module, Conv1D) else recorded


def find_cases(folder: Path, method: str | None = None) -> list[Case]:
    """All cases of a folder, or those of one method."""
    paths = sorted(folder.glob("*/*.json"))
    cases = [Case(folder, path) for path in paths if path.with_suffix(".safetensors").exists()]
    cases = [case for case in cases if case.path.parent.name not in ("inputs", "model")]
    return [case for case in cases if method in (None, case.method)]


def deviation(ours: Tensor, recorded: Tensor) -> float:
    """Relative Frobenius deviation ‖ours − recorded‖ / ‖recorded‖."""
    ours, recorded = ours.double(), recorded.double()
    return float(torch.linalg.norm(ours - recorded) / torch.linalg.norm(recorded))


def _fact(row: dict) -> Fact:
    return Fact(
        id=str(row["case_id"]),
        prompt=row["prompt"],
        subject=row["subject"],
        target_new=row["target_new"]["str"].strip(),  # the published code adds a space only where none is
        target_true=row["target_true"]["str"].strip(),
        relation=row.get("relation", ""),
    )
