"""What measuring costs: all stages at their default cadences beside 200 MEMIT edits of tiny-gpt2."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize_config_dir

from pipeline.config.resolvers import register_resolvers
from pipeline.launch import launch
from tests.benchmarks.measure import Row, against
from tests.benchmarks.workbench import Workbench
from tests.paths import CONF

STAGES = "norms,spectra,activations,probes,efficacy,generation,perplexity,downstream,signatures"
EDITING = {"step", "targets", "insertion"}
"""`time/*` keys that are no stage's; a step holds the two others."""


def stages_all(bench: Workbench) -> Row:
    """Seconds of the edits and of all stages, `prepare` included, as the run's `time/*` keys tell them."""
    register_resolvers()
    choices = ["editor=memit", "edits=200", f"stage=[{STAGES}]", "tracker=none", "name=cost"]
    with initialize_config_dir(str(CONF), version_base="1.3"), TemporaryDirectory() as root:
        launch(compose("config", choices), Path(root))
        (metrics,) = Path(root).glob("cost/*/metrics.jsonl")
        seconds = _seconds(metrics)
    stages = sum(value for name, value in seconds.items() if name not in EDITING)
    edits = seconds["step"]
    note = f"plain: 200 MEMIT edits, fast: all stages; {stages / (stages + edits):.0%} of both together"
    return against("stages_all", stages, edits, note, share=stages / (stages + edits))


def _seconds(metrics: Path) -> Counter[str]:
    """Sum of every `time/<name>/seconds` over a run."""
    total: Counter[str] = Counter()
    for line in metrics.read_text().splitlines():
        for key, value in json.loads(line).items():
            if key.startswith("time/"):
                total[key.split("/")[1]] += value
    return total
