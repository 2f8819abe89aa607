"""Facts written into a model in memory, with the scores, norms and texts of before and after."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.inference.continuations import continuations
from analysis.stages.base import Observation, Stage
from editors.data import Fact, Reader, as_it_is
from editors.digests import digest_of_tensors
from editors.errors import ConfigError, listed
from editors.models.model import Model
from editors.phases import Phase
from editors.updates import Site
from pipeline.build import build
from pipeline.interventions.base import Plan
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from pipeline.notebook.composition import check_choice
from pipeline.notebook.fact_sources import fact_list
from pipeline.notebook.models import configured, loaded
from pipeline.tracking.display import progress_view

log = logging.getLogger(__name__)

_TOKENS = 12
"""Length of the texts of before and after."""
_SUCCESS = "edit/success/seen."


@dataclass(frozen=True)
class EditResult:
    """What an edit of one or more facts did to a model."""

    model: Model = field(repr=False)
    editor: str
    """Name of the editor."""
    facts: Sequence[Fact]
    """The facts that were written, in this order; those that the model cannot read are left out."""
    took: Sequence[bool]
    """Whether each fact's new object was the model's first choice right after its insertion; empty for
    editors that write no facts."""
    scores: Mapping[str, float]
    """Every number of the stage `efficacy` after the edit, such as `edit/success/seen.rewrite` (ES)."""
    scores_before: Mapping[str, float]
    """The same numbers of the model before the edit."""
    norms: Mapping[str, float]
    """‖W‖ after the edit over ‖W‖ before it, by matrix, such as `mlp_down.05`."""
    before: Mapping[str, str]
    """What the model went on to say after the prompt of each fact, before the edit."""
    after: Mapping[str, str]
    """The same after the edit."""
    _weights: Mapping[Site, Tensor] = field(repr=False)
    """The matrices of before."""
    _after: str = field(repr=False)
    """The digest of the matrices of after."""

    def undo(self) -> None:
        """Write back the matrices of before, bit for bit; nothing happens if the model has them already.

        Raises:
            ConfigError: if the matrices were changed since, as by a later edit: it would be lost, and undoing
                it afterwards would bring this edit back.
        """
        before = digest_of_tensors({str(site): weight for site, weight in self._weights.items()})
        if _digest(self.model, self._weights) not in (self._after, before):
            raise ConfigError(
                f"{listed(list(self.norms))} of {self.model.name} changed after this edit by {self.editor}: "
                "undo later edits first, the last one before the others"
            )
        self.model.restore(self._weights)
        self.model.was_edited()

    def __repr__(self) -> str:
        """Editor, model, and how many facts were written with what success and growth."""
        scores = ", ".join(
            f"{name} {before:.2f} → {self.scores[key]:.2f}"
            for name, kind in (("ES", "rewrite"), ("PS", "paraphrase"), ("NS", "neighbour"))
            if (key := _SUCCESS + kind) in self.scores and (before := self.scores_before.get(key)) is not None
        )
        largest = max(self.norms, key=lambda name: self.norms[name], default="")
        grown = f"norm of {largest} × {self.norms[largest]:.4f}" if largest else "no matrix changed"
        missed = [fact.subject for fact, took in zip(self.facts, self.took, strict=False) if not took]
        return (
            f"<{self.editor} on {self.model.name}: {len(self.facts)} facts"
            f"{f', of which {listed(missed)} did not take' if missed else ''}; "
            f"{scores or 'no true objects'}; {grown}>"
        )


def edit(
    model: Model | str | Path,
    facts: Fact | str | Path | Sequence[Fact | str | Path],
    editor: str = "memit",
    *,
    batch_size: int | None = None,
    corpus: str | Path | None = None,
    tokens: int | None = None,
    seed: int = 0,
    layers: int | Sequence[int] | None = None,
    regularizer: str | Sequence[str] | None = None,
    **values: Any,
) -> EditResult:
    """Write facts into the model, in place; `EditResult.undo` takes them out again.

    `model` is loaded if it is a name, a folder or an id, as by `load`; a text in place of a fact is a source,
    as for `facts`. `editor` is a name of `conf/editor`; its constants for this model are those of
    `conf/hparams`, and `values` replace them, as in `preservation_weight=300, targets={"steps": 12}`. A model
    without constants needs `layers` and the values that its editor lacks. `batch_size` facts are written at a
    time; if it is not given, as many as the editor can: all of them, or one with ROME. Second moments of
    keys are taken over `tokens` tokens of `corpus`, a text file or a name of `conf/corpus`; by default over
    as much of the model's own text as the papers take, which is hours for a large model.

    Raises:
        ConfigError: for an unknown editor or value, and for values that are missing.
        DataError: for facts that the model cannot read.
    """
    check_choice("editor", editor)
    layers = [layers] if isinstance(layers, int) else layers
    regularizer = [regularizer] if isinstance(regularizer, str) else regularizer
    for name in regularizer or ():
        check_choice("regularizer", name)
    facts, model = fact_list(facts), loaded(model)
    own = {
        "editor": values,
        **({} if batch_size is None else {"batch_size": batch_size}),
        **({} if layers is None else {"layers": {"edit": list(layers)}}),
        **({} if tokens is None else {"moments": {"tokens": tokens}}),
    }
    choices = [f"editor={editor}", f"seed={seed}", *([] if tokens is None else ["moments=tokens"])]
    if regularizer is not None:
        choices.append(f"regularizer=[{','.join(regularizer)}]")
    intervention, efficacy = _parts(model, len(facts), choices, own, corpus)
    if batch_size is None:
        largest = intervention.editor.largest_batch or len(facts)
        intervention = replace(intervention, batch_size=min(len(facts), largest))
    plan = Plan(stream=tuple(facts), others=(), untouched=())
    intervention.check(model, plan)
    with progress_view() as view:
        plan = intervention.select(model, plan, view.report)
    return _written(model, editor, plan, intervention, efficacy)


def _written(
    model: Model, editor: str, plan: Plan, intervention: KnowledgeEdit, efficacy: Stage
) -> EditResult:
    """What writing the facts of the plan did, measured before and after it."""
    weights = model.snapshot(intervention.editor.sites)
    norms = _norms(model, weights)
    efficacy.prepare(model, plan.stream)
    scores_before = _scores(efficacy, model, plan.stream, as_it_is)
    if scores_before.get(f"{_SUCCESS}rewrite") == 1:
        log.warning(
            "%s prefers every new object to the true one already, so that ES says nothing about this edit "
            "(are the two exchanged? In a text the new object is the last one)",
            model.name,
        )
    before = _texts(model, plan.stream, as_it_is)
    took: list[bool] = []
    with progress_view() as view:
        intervention.prepare(model, plan, view.report)
        view.report(_editing(0, plan))
        done = 0
        for change in intervention.steps(model, plan):
            done += len(change.facts)
            took += map(bool, change.details.get("took", ()))
            view.report(_editing(done, plan))
    model.was_edited()
    reader = intervention.reader(plan.stream)
    return EditResult(
        model=model,
        editor=editor,
        facts=plan.stream,
        took=took,
        scores=_scores(efficacy, model, plan.stream, reader),
        scores_before=scores_before,
        norms={name: norm / norms[name] for name, norm in _norms(model, weights).items()},
        before=before,
        after=_texts(model, plan.stream, reader),
        _weights=weights,
        _after=_digest(model, weights),
    )


def _editing(done: int, plan: Plan) -> Phase:
    return Phase(name="editing", count=done, total=len(plan.stream), unit="facts")


def _parts(
    model: Model, edits: int, choices: Sequence[str], values: Mapping[str, Any], corpus: str | Path | None
) -> tuple[KnowledgeEdit, Stage]:
    """The intervention that edits with these choices and values, and the stage that scores all its facts."""
    own = {**values, "edits": edits, "stage": {"efficacy": {"scopes": ["seen"]}}}
    parts = build(configured(model, [*choices, "stage=[efficacy]", "tracker=none"], own, corpus))
    (efficacy,) = parts.stages
    assert isinstance(parts.intervention, KnowledgeEdit)
    return parts.intervention, efficacy


def _scores(efficacy: Stage, model: Model, facts: Sequence[Fact], reader: Reader) -> dict[str, float]:
    """The numbers of the stage, with every fact counted as edited."""
    count = len(facts)
    moment = Observation(count=count, total=count, latest=facts, seen=facts, reader=reader)
    measured = efficacy.measure(model, moment)
    return {key: value for key, value in measured.items() if isinstance(value, float)}


def _norms(model: Model, sites: Mapping[Site, Tensor]) -> dict[str, float]:
    return {f"{site.name}.{site.layer:02d}": float(model.current(site).double().norm()) for site in sites}


def _digest(model: Model, sites: Iterable[Site]) -> str:
    return digest_of_tensors({str(site): model.master(site) for site in sites})


def _texts(model: Model, facts: Sequence[Fact], reader: Reader) -> dict[str, str]:
    prompts = list(dict.fromkeys(fact.statement for fact in facts))
    texts = continuations(model, [reader(prompt) for prompt in prompts], tokens=_TOKENS)
    return dict(zip(prompts, texts, strict=True))
