"""Seconds a fact, peak memory and utilisation of editors at a published shape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from editors.base import Edit, Editor
from editors.data import Fact
from editors.locate.base import LocateThenEdit
from editors.models.model import Model
from tests.benchmarks.measure import timed
from tests.benchmarks.utilisation import counted, gemm_speed
from tests.gpu.bench import Bench, Row, weights_gib

BATCHED = ("memit", "encore", "alphaedit")
ALL = (*BATCHED, "rome", "ultraedit", "locft")
GOALS: Mapping[tuple[str, str], float] = {
    ("llama3-8b", "memit"): 0.6,
    ("llama3-8b", "memit, stopped early"): 0.2,
    ("gpt2-xl", "memit"): 0.1,
}
"""Seconds a fact."""
UTILISATION, BESIDE_GIB = 0.45, 12.0
"""Goals for MEMIT: the share of a large product's speed, and the memory beside the weights."""


def rows(bench: Bench, shape: str) -> Iterator[Row]:
    """A batch by every editor, and one that a stop rule ends early; ROME edits a single fact."""
    seconds = timed(lambda: bench.model(shape))
    model = bench.model(shape)
    digest_s = timed(lambda: model.digest)
    yield {"what": "model", "made_s": seconds, "digest_s": digest_s, "weights_gib": weights_gib(model)}
    speed = gemm_speed(bench.scale.side, next(model.hf.parameters()))
    yield {"what": f"product of {bench.scale.side} rows and columns", "tflops": speed / 1e12}
    for name in ALL:
        yield from _editor(bench, model, name, speed)


def _editor(bench: Bench, model: Model, name: str, speed: float) -> Iterator[Row]:
    editor, count = bench.editor(model.name, name), 1 if name == "rome" else bench.scale.facts
    bench.stop.evaluations = 0
    batch = bench.facts(count)
    prepare_s = timed(lambda: editor.prepare(model))
    _perform(model, editor, bench.facts(1))  # libraries load their kernels
    row = _measured(bench, model, editor, batch, name) | {"prepare_s": prepare_s}
    if name == "memit" and isinstance(editor, LocateThenEdit):
        flops = _flops(model, editor, batch)
        share = flops / float(row["targets_s"]) / speed
        row |= {"tflop": flops / 1e12, "utilisation": share}
        if not bench.scale.narrow:
            row |= {"utilisation_goal": UTILISATION}
    yield row
    if name in BATCHED:
        bench.stop.evaluations = bench.scale.stop
        yield _measured(bench, model, editor, batch, f"{name}, stopped early")


def _measured(bench: Bench, model: Model, editor: Editor, batch: Sequence[Fact], what: str) -> Row:
    """Edit, application and commit of one batch."""
    edits: list[Edit] = []
    cost = bench.measured(lambda: edits.append(_perform(model, editor, batch)))
    row: Row = {"what": what, "facts": len(batch), "fact_s": cost["total_s"] / len(batch)}
    if "peak_gib" in cost:
        row |= {"peak_gib": cost["peak_gib"], "beside_weights_gib": cost["peak_gib"] - weights_gib(model)}
    phases = {f"{phase}_s": value for phase, value in edits[0].seconds.items()}
    steps = {key: value for key, value in edits[0].diagnostics.items() if key == "optimiser_steps"}
    if not bench.scale.narrow and (goal := GOALS.get((model.name, what))) is not None:
        row |= {"fact_s_goal": goal, "beside_weights_gib_goal": BESIDE_GIB}
    return row | phases | steps


def _perform(model: Model, editor: Editor, batch: Sequence[Fact]) -> Edit:
    edit = editor.edit(model, batch)
    model.apply(edit.update)
    editor.commit(model, batch, edit)
    return edit


def _flops(model: Model, editor: LocateThenEdit, batch: Sequence[Fact]) -> int:
    """Floating-point operations of finding the targets of a batch.

    Every step does the same ones, so that two and three of them give those of all.
    """
    targets, groups = editor.targets, editor.contexts.groups(model)

    def of(steps: int) -> int:
        fewer, layers = replace(targets, steps=steps), editor.layers[-1:]
        return counted(lambda: fewer.find(model, batch, groups, layers, editor.regularizers["stop"]))

    two, three = of(2), of(3)
    return two + (targets.steps - 2) * (three - two)
