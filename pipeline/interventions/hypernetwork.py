"""`intervention=hypernetwork`: trains an editor on facts of subjects that runs then leave alone."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from editors.data import Corpus, Fact
from editors.errors import ConfigError
from editors.models.gradients import check_sites
from editors.models.model import Model
from editors.phases import Phase, Report, silent
from editors.updates import Site
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Change, Intervention, Part, Plan, StepObserver
from pipeline.interventions.unreadable_facts import learnable
from pipeline.runs.checkpoint_store import new_checkpoint

_LEARNT = "learnt.safetensors"


class Settings(Protocol):
    """The settings of a learner that the intervention reads."""

    @property
    def steps(self) -> int:
        """Largest number of steps; the learner may stop earlier."""
        ...


@runtime_checkable
class Learner(Protocol):
    """An editor that is trained before it edits, such as MEND."""

    @property
    def name(self) -> str:
        """As in configurations."""
        ...

    @property
    def sites(self) -> Sequence[Site]:
        """The matrices that it will edit."""
        ...

    @property
    def training(self) -> Settings:
        """The settings of its training."""
        ...

    def checkpoint(self, model: Model) -> Path:
        """The file that an interrupted training resumes from; written before a validation is yielded."""
        ...

    def train(
        self,
        model: Model,
        facts: Sequence[Fact],
        held_out: Sequence[Fact],
        *,
        texts: Sequence[str] = (),
        trained_on: Mapping[str, object] | None = None,
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield (step, numbers) for each step; the best weights are saved where editing runs find them."""
        ...


@dataclass(frozen=True, kw_only=True)
class LearnToEdit(Intervention):
    """Trains the hypernetwork of an editor on half of the subjects; the model stays as it is.

    One row per validation, on facts of the other half, each edited alone.
    """

    name: str
    editor: object
    """A `Learner`."""
    texts: Corpus | None = None
    """Running text that edits should leave alone, beside the prompts about other subjects."""
    documents: int = 0
    """Number of documents of `texts`."""

    def __post_init__(self) -> None:
        if not isinstance(self.editor, Learner):
            name = getattr(self.editor, "name", self.editor)
            raise ConfigError(
                f"editor={name} has nothing to learn: intervention={self.name} is for editor=mend"
            )

    @property
    def learner(self) -> Learner:
        """The editor, as a `Learner`."""
        assert isinstance(self.editor, Learner)
        return self.editor

    def will_read(self, model: str) -> Iterable[Corpus]:
        """The running text, if any of its documents are used."""
        return (self.texts,) if self.texts is not None and self.documents > 0 else ()

    def plan(self, facts: FactSet) -> Plan:
        """The editor is trained on half of the subjects; the others are left alone."""
        return Plan(learnt=facts.training().facts, untouched=facts.held_out().facts)

    def changes(self, plan: Plan) -> Sequence[Site]:
        """Those that the editor will change: each validation edits them."""
        return self.learner.sites

    def check(self, model: Model, plan: Plan) -> None:
        """Raise a ConfigError for a block or matrix that the model does not have."""
        check_sites(model, self.learner.sites)

    def select(self, model: Model, plan: Plan, report: Report = silent) -> Plan:
        """The plan without facts that the model cannot read."""
        report(Phase(name="reading the facts"))
        return replace(plan, learnt=learnable(model, plan.learnt), untouched=learnable(model, plan.untouched))

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Train; report every validation and save a checkpoint at each."""
        part = Part(name=self.name, unit="steps", total=self.learner.training.steps)
        saved, progress = observer.resumed, self.learner.checkpoint(model)
        if saved is not None:
            progress.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(saved.checkpoint / _LEARNT, progress)
        else:
            progress.unlink(missing_ok=True)  # of a run that has no rows any more
            if not observer.look(model, part):
                return
        texts = list(islice(self.texts or (), self.documents))
        reported = saved.count if saved else 0
        for step, numbers in self.learner.train(model, plan.learnt, plan.untouched, texts=texts):
            validated = any(key.endswith("/validation") for key in numbers)
            if validated and not observer.look(model, part, Change(steps=step - reported, numbers=numbers)):
                return
            if validated:
                reported = step
                self._save(observer, progress, step)
            elif observer.requests.pending:
                observer.requests.answered()  # the run resumes from the last validation

    def _save(self, observer: StepObserver, progress: Path, step: int) -> None:
        checkpoint = new_checkpoint(observer.checkpoints, step)
        shutil.copyfile(progress, checkpoint / _LEARNT)
        observer.save(checkpoint)
        observer.requests.answered()
