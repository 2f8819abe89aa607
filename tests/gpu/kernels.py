"""Where the time of a batch goes: the ten kernels that take most of it."""

from collections.abc import Iterator
from dataclasses import replace

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from editors.locate.base import LocateThenEdit
from tests.benchmarks.measure import timed
from tests.gpu.bench import Bench, Row

TOP = 10


def rows(bench: Bench, shape: str) -> Iterator[Row]:
    """Kernels of a batch by MEMIT with a fifth of the steps; on a CPU, operations.

    Seconds of the batch are without the profiler: more than those of its kernels is time without work.
    """
    model, editor = bench.model(shape), bench.editor(shape, "memit")
    assert isinstance(editor, LocateThenEdit)
    bench.stop.evaluations = 0
    editor.targets = replace(editor.targets, steps=max(bench.scale.steps // 5, 1))
    editor.prepare(model)
    editor.edit(model, bench.facts(1))
    on_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    batch_s = timed(lambda: editor.edit(model, bench.facts()))
    with profile(activities=activities) as profiler:
        editor.edit(model, bench.facts())

    def seconds(event: FunctionEventAvg) -> float:
        return (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6

    # an operation has the time of its kernels as well
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == kind]
    events.sort(key=seconds, reverse=True)
    total = sum(map(seconds, events))
    yield {"what": "all kernels of a batch", "batch_s": batch_s, "kernels_s": total}
    for event in events[:TOP]:
        share = seconds(event) / total
        yield {"what": event.key[:60], "calls": event.count, "kernel_s": seconds(event), "share": share}
