"""How near the estimate of memory comes; measured in a process of its own, for its peak."""

import json
import resource
import subprocess
import sys

import psutil

from editors.locate.contexts import GivenContexts
from editors.methods.memit import MEMIT
from editors.moments.moment_sources import GivenMoments
from tests.benchmarks.editing import BATCH, MEMIT_TARGETS
from tests.benchmarks.measure import Row, against
from tests.benchmarks.workbench import LAYERS, Workbench, facts


def memory_estimate(bench: Workbench) -> Row:
    """The resident peak of a batch of a hundred by MEMIT, and what was estimated before it."""
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    note = "GiB beside the loaded model, not seconds: seen (plain) and estimated (fast) for memit_batch100"
    return against("memory_estimate", found["estimated"], found["seen"], note, base_gib=found["base"])


def main() -> None:
    """Print estimate and peak in GiB."""
    bench = Workbench()
    memit = MEMIT(
        name="memit",
        layers=LAYERS,
        targets=MEMIT_TARGETS,
        contexts=GivenContexts(templates=bench.memit_contexts),
        moments=GivenMoments(matrices={layer: bench.moments.matrices[layer].clone() for layer in LAYERS}),
        preservation_weight=100.0,
    )
    base = psutil.Process().memory_info().rss - len(LAYERS) * 3072**2 * 8  # the estimate counts the moments
    estimated = memit.memory(bench.model, facts(BATCH))
    memit.prepare(bench.model)
    memit.edit(bench.model, facts(BATCH))
    seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
    found = {"estimated": estimated, "seen": seen, "base": base}
    sys.stdout.write(json.dumps({name: value / 2**30 for name, value in found.items()}) + "\n")


if __name__ == "__main__":
    main()
