"""`intervention=checkpoints`: measures models that others made of the base model, one after another.

Nothing is edited or trained here. The models are folders or ids of the same shape: the checkpoints of a
training, or what the authors' own code of an editor has written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.stages.reference import Reference
from editors.errors import ConfigError, ModelError, listed
from editors.models.loading import Checkpoint, Precision
from editors.models.model import Model
from editors.models.tokenization import tokenizer_description
from editors.updates import Site
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Change, Intervention, Part, Plan, StepObserver

_NUMBER = re.compile(r"(?:checkpoint|steps?|edits?|iter(?:ation)?s?)[-_]?(\d+)\D*$", re.IGNORECASE)
"""The last number of a path if it counts steps or edits, such as that of `checkpoint-500`."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Intervention):
    """Every model in turn takes the place of the base model, which is measured first.

    Every stage measures every model, whatever its cadence is: there are only as many as somebody names.
    A run that was interrupted starts again: reading a model takes no longer than reading a saved state would.
    """

    paths: Sequence[str]
    """Folders or Hugging Face ids, in the order of their making."""
    counts: Sequence[int] | None = None
    """Steps or edits that had been made when each was saved: their places on the x-axis. Null takes the last
    number of every path if all have one as `checkpoint-500`, `step_500` or `edits500` and these ascend, and
    else 1, 2, 3, …"""
    dtype: Precision = "float32"
    """Precision of the models; that of the base model."""
    name: str = "checkpoints"

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("intervention.paths is empty: name at least one model")
        if self.counts is not None and (len(self.counts) != len(self.paths) or not _ascend(self.counts)):
            raise ConfigError(
                f"intervention.counts={list(self.counts)} has to be one number above 0 for each of the "
                f"{len(self.paths)} models, in ascending order"
            )

    @property
    def places(self) -> Sequence[int]:
        """The place of each model on the x-axis."""
        if self.counts is not None:
            return self.counts
        numbers = [int(found[1]) for path in self.paths if (found := _NUMBER.search(path.rstrip("/")))]
        return numbers if len(numbers) == len(self.paths) and _ascend(numbers) else _counted(len(self.paths))

    def plan(self, facts: FactSet) -> Plan:
        """All facts are left alone."""
        return Plan(untouched=facts.facts)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Measure the base model, then one model after another.

        Every model is read twice: at first only to check it and to find the matrices in which it differs,
        which count as edited.

        Raises:
            ModelError: if a model has another shape or other tokens, before anything is measured.
        """
        edited = self._changed(model)
        part = Part(name=self.name, unit="steps", total=self.places[-1], edited=edited, complete=True)
        if not observer.look(model, part):
            return
        before = 0
        for path, count in zip(self.paths, self.places, strict=True):
            model.hf.load_state_dict(self._read(path).hf.state_dict())
            model.was_trained()
            change = Change(steps=count - before)
            before = count
            if not observer.look(model, part, change):
                return

    def _read(self, path: str) -> Model:
        return Checkpoint(name=path, path=path, dtype=self.dtype, device="cpu").load()

    def _changed(self, model: Model) -> Sequence[Site]:
        """Matrices of the base model in which one of the models differs."""
        tokenizer, unedited = tokenizer_description(model.tokenizer), Reference(model)
        changed: set[Site] = set()
        for path in self.paths:
            other = self._read(path)
            _check_alike(other, model, tokenizer)
            changed |= {*unedited.changed(other)}
        return [site for site in unedited.weights if site in changed]


def _check_alike(other: Model, model: Model, tokenizer: str) -> None:
    """Raise a ModelError if a model has other parameters or other tokens than the base model."""
    here = {name: tuple(value.shape) for name, value in model.hf.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in other.hf.state_dict().items()}
    if differing := sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)):
        raise ModelError(
            f"{other.name} is not of the shape of {model.name}: they differ in {listed(differing)}; "
            "name models that were made of it"
        )
    if tokenizer_description(other.tokenizer) != tokenizer:
        raise ModelError(
            f"{other.name} splits text into other tokens than {model.name}: save it with the tokenizer of "
            f"{model.name}"
        )


def _ascend(counts: Sequence[int]) -> bool:
    return all(before < now for before, now in zip((0, *counts), counts, strict=False))


def _counted(models: int) -> Sequence[int]:
    return range(1, models + 1)
