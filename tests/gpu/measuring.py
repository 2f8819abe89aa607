"""Second moments per 100,000 tokens, and what every stage costs, at a published shape."""

from collections.abc import Iterator
from dataclasses import asdict

from analysis.stages.base import Observation
from analysis.stages.reference import Reference
from editors.moments.streaming import Batching, Budget, Tally, collect
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from tests.benchmarks.measure import timed
from tests.benchmarks.second_moments import documents
from tests.gpu.bench import Bench, Row

STAGES = (
    "norms,efficacy,perplexity,activations,downstream,generation,generation_match,suppression,functional,probes,"
    "spectra,tracing"
)
"""The longest last: they may outlast the budget."""
EDITED = 10
"""Facts that the stages measure after."""


def second_moments(bench: Bench, shape: str) -> Iterator[Row]:
    """One pass for the five blocks that MEMIT edits."""
    model, tokens = bench.model(shape), bench.scale.tokens
    editor = bench.editor(shape, "memit")
    layers, texts = [site.layer for site in editor.sites], documents(2 * tokens)
    tally = Tally.start(model, layers)

    def work() -> None:
        collect(model, texts, Budget(tokens=tokens), Batching(), tally)

    cost = bench.measured(work)
    where = str(tally.moments[layers[0]].total.device)
    yield {"what": f"{len(layers)} blocks", "tokens": tally.tokens, **cost, "sums_on": where}


def stages(bench: Bench, shape: str) -> Iterator[Row]:
    """Preparation and one measurement after edits, with the moments at which each stage measures by default.

    Every fact is traced, because a random model knows none, and suppression has none to ask about.
    """
    model, options = bench.model(shape), (*bench.scale.stages, "stage.tracing.only_known=false")
    parts = bench.parts(shape, "memit", f"stage=[{STAGES}]", f"edits={EDITED}", *options)
    assert isinstance(parts.intervention, KnowledgeEdit)
    plan, editor = parts.intervention.plan(parts.data.load()), bench.editor(shape, "memit")
    reference, stream = Reference(model), plan.stream[: min(EDITED, bench.scale.facts)]
    for stage in parts.stages:
        seconds = timed(lambda stage=stage: stage.prepare(model, stream))
        yield {"what": f"{stage.name}, preparation", "prepare_s": seconds}
    editor.prepare(model)
    model.apply(editor.edit(model, stream).update)
    seen = Observation(
        count=len(stream), total=len(stream), untouched=plan.untouched, seen=stream, latest=stream,
        reference=reference, edited=editor.sites,
    )  # fmt: skip
    for stage in parts.stages:
        seconds = timed(lambda stage=stage: stage.measure(model, seen))
        cadence = ", ".join(f"{key} {value}" for key, value in asdict(stage.cadence).items())
        yield {"what": stage.name, "measure_s": seconds, "cadence": cadence}
