"""What does not grow along a sequence: the time of an edit, and memory."""

import statistics
import time
from collections.abc import Mapping, Sequence

import psutil

from editors.data import Fact
from editors.locate.contexts import SampledContexts
from editors.locate.targets import TargetOptimizer
from editors.methods.memit import MEMIT
from editors.models.model import Model
from editors.moments.collected import CollectedMoments
from editors.regularizers.base import Regularizer
from editors.regularizers.history import History
from pipeline.data.world.builtin import BuiltInCheckpoint
from pipeline.data.world.datasets import WorldFacts, WorldText
from tests.benchmarks.measure import Row, against
from tests.benchmarks.workbench import Workbench

EDITS, EARLY, WINDOW = 2000, 100, 50


def sequence_without_history(bench: Workbench) -> Row:
    """MEMIT on tiny-gpt2."""
    return _sequence("sequence_without_history", {})


def sequence_with_history(bench: Workbench) -> Row:
    """The same, remembering every key."""
    return _sequence("sequence_with_history", {"history": History()})


def _sequence(name: str, rules: Mapping[str, Regularizer]) -> Row:
    model = BuiltInCheckpoint(name="tiny-gpt2", device="cpu").load()
    editor = MEMIT(
        name="memit",
        layers=[0],
        targets=TargetOptimizer(max_norm_ratio=1.0, steps=5, loss_threshold=0.0),
        contexts=SampledContexts(),
        moments=CollectedMoments(corpus=WorldText(), tokens=100_000),
        preservation_weight=1000.0,
        regularizers=rules,
    )
    editor.prepare(model)
    every = WorldFacts().load().facts
    seconds, resident = _run(model, editor, [every[i % len(every)] for i in range(EDITS)])
    early = statistics.median(seconds[EARLY - WINDOW : EARLY + WINDOW])
    late = statistics.median(seconds[-2 * WINDOW :])
    growth = (resident[-1] - resident[EARLY]) / 2**20
    note = f"plain: edits around {EARLY}, fast: around {EDITS}; memory grew by {growth:.0f} MiB"
    return against(name, late, early, note, slowdown=late / early, growth_mib=growth)


def _run(model: Model, editor: MEMIT, facts: Sequence[Fact]) -> tuple[list[float], list[int]]:
    """Seconds of every edit, applied and committed, and resident bytes after it."""
    seconds, resident, process = [], [], psutil.Process()
    for fact in facts:
        begun = time.perf_counter()
        edit = editor.edit(model, [fact])
        model.apply(edit.update)
        editor.commit(model, [fact], edit)
        seconds.append(time.perf_counter() - begun)
        resident.append(process.memory_info().rss)
    return seconds, resident
