"""How near the estimate of memory comes; measured in a process of its own, for its peak."""

import json
import resource
import subprocess
import sys

import psutil

from editors.locate.contexts import GivenContexts
from editors.memit import MEMIT
from tests.bench.editing import BATCH, MEMIT_TARGETS
from tests.bench.measure import Row, against
from tests.bench.workbench import LAYERS, Workbench, facts


def memory_estimate(bench: Workbench) -> Row:
    """The resident peak of a batch of a hundred by MEMIT, and what was estimated before it."""
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    note = "GiB, not seconds: seen (plain) and estimated (fast) for the process of memit_batch100"
    return against("memory_estimate", found["estimated"], found["seen"], note)


def main() -> None:
    """Print estimate and peak in GiB."""
    bench = Workbench()
    memit = MEMIT(
        name="memit",
        layers=LAYERS,
        targets=MEMIT_TARGETS,
        contexts=GivenContexts(templates=bench.memit_contexts),
        moments=bench.moments,
        preservation_weight=100.0,
    )
    base = psutil.Process().memory_info().rss
    estimated = base + memit.memory(bench.model, facts(BATCH))
    memit.prepare(bench.model)
    memit.edit(bench.model, facts(BATCH))
    seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"estimated": estimated / 2**30, "seen": seen / 2**30, "base": base / 2**30}))  # noqa: T201


if __name__ == "__main__":
    main()
