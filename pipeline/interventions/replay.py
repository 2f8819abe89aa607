"""`intervention=replay`: applies the updates of an earlier run again, or controls in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from analysis.results.run_folder import CONFIG, RunFolder
from editors.controls.controls import Control
from editors.controls.recorded_edits import RecordedEdits
from editors.errors import ConfigError, DataError
from editors.models.gradients import check_sites
from editors.models.model import Model
from editors.phases import Report, silent
from editors.update_files import Recorded, check_undo, first_edits, read_updates
from editors.updates import Site
from pipeline.checkpoints.kept_updates import FOLDER
from pipeline.data.factset import FactSet
from pipeline.interventions.base import Intervention, Plan, StepObserver
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from pipeline.runs.input_digests import check_inputs, recorded_inputs
from pipeline.runs.layout import run_of, warn_if_unverifiable


@dataclass(frozen=True, kw_only=True)
class Replay(Intervention):
    """The edits of a finished run that kept its updates, without optimising anything.

    The facts, their order and the batches are the recorded ones; `data` has to hold them.
    """

    source: str
    """Folder of the run, or of an experiment with one finished run, or with one of this model and seed."""
    seed: int | None = None
    """The seed of the run, if the experiment holds several."""
    model: Mapping[str, str | int | None]
    """Name, path, dtype and bits of the model; they have to be those of the run."""
    control: Control = field(default_factory=Control)
    """The change that is written instead of each update."""
    edits: int | None = None
    """Number of edits to apply, from the first on; null applies all."""
    undo: Sequence[str | int] = ()
    """Ids of facts whose updates are left out, although the facts count as edited."""
    save_every: int = 100
    """Edits between two checkpoints; 0 saves only on request."""
    name: str = "replay"

    @property
    def statistics(self) -> str:
        """The label of the second moments from which the recorded updates were computed."""
        return str(RunFolder(self._run).final_summary().get("statistics", ""))

    def plan(self, facts: FactSet) -> Plan:
        """The recorded facts in their order.

        Raises:
            ConfigError: if there is no such run, or its model is another one or has changed.
            DataError: if its updates cannot be read, or `data` does not hold its facts.
        """
        self._check_model()
        facts = facts.held_out() if self._batches[0].held_out else facts
        by_id = {fact.id: fact for fact in facts.facts}
        ids = [identity for batch in self._batches for identity in batch.facts]
        missing = [identity for identity in ids if identity not in by_id]
        if missing:
            raise DataError(
                f"data={facts.name} does not hold {len(missing)} of the {len(ids)} facts that {self.source} "
                f"edited, such as {missing[0]}: choose the data of that run"
            )
        stream = tuple(by_id[identity] for identity in ids)
        return Plan(stream=stream, others=facts.others(stream), untouched=facts.untouched(stream))

    def changes(self, plan: Plan) -> Sequence[Site]:
        """Those of the recorded updates."""
        return self._editing.editor.sites

    def check(self, model: Model, plan: Plan) -> None:
        """Raise a ConfigError for a matrix that the model does not have, or that cannot be changed."""
        recorded = self._editing.editor.sites
        check_sites(model, recorded, f"intervention.source={self.source}")
        model.check_changeable(self.control.sites(recorded, model))

    def prepare(self, model: Model, plan: Plan, report: Report = silent) -> None:
        """Prepare the control on the unedited model."""
        self._editing.prepare(model, plan, report)

    def run(self, model: Model, plan: Plan, observer: StepObserver) -> None:
        """Apply one recorded batch after another, with the checkpoints and axis of `KnowledgeEdit`."""
        self._editing.run(model, plan, observer)

    @property
    def _undone(self) -> frozenset[str]:
        """Ids are texts; Hydra reads those of digits as numbers."""
        return frozenset(map(str, self.undo))

    @cached_property
    def _run(self) -> Path:
        run = run_of(self.source, self.model.get("name"), self.seed)
        warn_if_unverifiable(run)
        return run

    @cached_property
    def _batches(self) -> Sequence[Recorded]:
        """The recorded batches that are applied."""
        RunFolder(self._run).verify(f"{FOLDER}/*")
        batches = read_updates(self._run / FOLDER)
        chosen = batches if self.edits is None else first_edits(batches, self.edits)
        check_undo(chosen, self._undone)
        return chosen

    @cached_property
    def _editing(self) -> KnowledgeEdit:
        return KnowledgeEdit(
            editor=RecordedEdits(batches=self._batches, control=self.control, undone=self._undone),
            edits=sum(len(batch.facts) for batch in self._batches),
            batch_size=len(self._batches[0].facts),
            save_every=self.save_every,
            name=self.name,
        )

    def _check_model(self) -> None:
        folder = self._run
        recorded = RunFolder(folder).config().get("model") or {}
        if "name" not in recorded:
            raise DataError(
                f"{folder / CONFIG} names no model to which its updates could be applied: copy the run again"
            )
        for key, here in self.model.items():
            if (there := recorded.get(key)) != here:
                raise ConfigError(
                    f"model.{key}={here}, but the updates of {folder} were made for model.{key}={there}: "
                    f"choose model={recorded['name']} as that run did"
                )
        path, inputs = self.model.get("path"), recorded_inputs(folder)
        if isinstance(path, str) and path in inputs:
            check_inputs(folder, {path: inputs[path]})
