"""Every stage on a second device: no tensor is left behind on the CPU."""

import pytest

from analysis.stages.base import Measurement, Observation
from analysis.stages.reference import Reference
from analysis.stages.suppression.stage import Suppression
from editors.methods.memit import MEMIT
from pipeline.build import build
from pipeline.config.schema import resolved
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from tests.pipeline.test_experiment import EVERY, QUICK, Composed
from tests.second_device import SecondDevice, moved

SHORT = (
    "stage.generation.length=16",
    "stage.generation_match.tokens=3",
    "stage.generation_match.facts=1",
    "stage.efficacy.generated_tokens=3",
    "stage.probes.solver.max_iterations=5",
    "stage.suppression.mask=0.1",
    "+stage.suppression.mask_steps=2",
)


def measured(composed: Composed, device: SecondDevice | None = None) -> Measurement:
    """The numbers of every stage after four edits; each was restored from its memory in between."""
    parts = build(resolved(composed(f"stage=[{EVERY}]", *QUICK, *SHORT)))
    model = parts.model.load() if device is None else moved(parts.model.load(), device)
    assert isinstance(parts.intervention, KnowledgeEdit)
    editor, plan = parts.intervention.editor, parts.intervention.plan(parts.data.load())
    assert isinstance(editor, MEMIT)
    editor.prepare(model, plan.stream)
    reference, measurement = Reference(model), {}
    for stage in parts.stages:
        stage.prepare(model, plan.stream)
        if isinstance(stage, Suppression):
            stage._known = {fact.id for fact in plan.stream}  # a random model knows none
    for edits in (0, 4):
        if edits:
            model.apply(editor.edit(model, plan.stream).update)
        seen = Observation(
            count=edits, before=0, total=4, untouched=plan.untouched, seen=plan.stream[:edits],
            latest=plan.stream[:edits], reference=reference, edited=editor.sites,
        )  # fmt: skip
        for stage in parts.stages:
            measurement |= stage.measure(model, seen)
            stage.recall(model, {key: value.cpu() for key, value in stage.memory().items()})
    return measurement


@pytest.mark.long
def test_every_stage_stays_on_the_device_of_the_model(composed: Composed):
    """The numbers are those of the CPU; only attention is computed in another order."""
    expected = measured(composed)
    with SecondDevice() as device:
        measurement = measured(composed, device)
    assert measurement.keys() == expected.keys() >= {"edit/hushed/restored", "edit/mask/removed"}
    numbers = {key: value for key, value in expected.items() if isinstance(value, float)}
    assert len(numbers) > 100
    for key, value in numbers.items():
        assert measurement[key] == pytest.approx(value, rel=1e-2, abs=1e-4, nan_ok=True), key
