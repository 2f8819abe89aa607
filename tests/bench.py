"""Speed against the plain reference path, on the same work in the same process: `make bench`.

A GPT-2-small-shaped model with random weights (12 blocks, width 768, vocabulary 50,257), the published 20
steps, fixed contexts. Fast and plain runs alternate and medians are reported; what takes minutes is run once,
what would take the plain path an hour is measured on a few facts and scaled, and the row says so.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from editors.locate.contexts import GivenContexts, Groups
from editors.locate.moments import GivenMoments
from editors.locate.targets import TargetOptimizer
from editors.memit import MEMIT
from editors.model.facts import Fact
from editors.model.model import Model
from editors.rome import ROME
from tests import plain
from tests.tiny import tokenizer

OUT = Path("outputs/bench/bench.json")
PREFIXES = (
    "The river. {}",
    "Because I live. {}",
    "Everyone in town. {}",
    "You are little. {}",
    "English is spoken. {}",
)
MEMIT_CONTEXTS: Groups = (("{}",), PREFIXES)
ROME_CONTEXTS: Groups = (("{}", *PREFIXES * 4),)
LAYERS = [3, 4, 5, 6, 7]
BATCH, PLAIN_FACTS = 100, 2


def facts(count: int) -> list[Fact]:
    """Subjects of a few tokens, objects of one or two."""
    names = ("Ada Byron", "Danielle Darrieux", "Jean Brialy", "Jacques Attali")
    return [
        Fact(
            id=str(i),
            prompt="The mother tongue of {} is",
            subject=f"{names[i % 4]} {chr(97 + i % 26)}",
            target_new=("English", "town", "river")[i % 3],
        )
        for i in range(count)
    ]


def model() -> Model:
    """The GPT-2-small shape."""
    torch.manual_seed(0)
    return Model(GPT2LMHeadModel(GPT2Config()), tokenizer(), name="gpt2-small-shape")


def moments() -> GivenMoments:
    """One well-conditioned matrix for every layer."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(3072, 6144, generator=generator)
    shared = (keys @ keys.T / 6144).double()
    return GivenMoments(matrices=dict.fromkeys(range(12), shared))


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def alternate(
    name: str, fast: Callable[[], object], slow: Callable[[], object], scale: float, note: str, runs: int = 3
) -> dict:
    """Medians of alternating runs; the plain time is multiplied by `scale`."""
    pairs = [(timed(fast), timed(slow)) for _ in range(runs)]
    fast_s, plain_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    plain_s *= scale
    return {"name": name, "plain_s": plain_s, "fast_s": fast_s, "ratio": plain_s / fast_s, "note": note}


def main() -> None:
    """Measure, print the table, write the list."""
    base, known = model(), moments()
    every = facts(BATCH)
    rome_targets = TargetOptimizer(reference="mlp", loss_threshold=0.0)
    memit_targets = TargetOptimizer(max_norm_ratio=0.75, loss_threshold=0.0)
    rome = ROME(
        name="rome",
        layers=[5],
        targets=rome_targets,
        contexts=GivenContexts(templates=ROME_CONTEXTS),
        moments=known,
    )
    memit = MEMIT(
        name="memit",
        layers=LAYERS,
        targets=memit_targets,
        contexts=GivenContexts(templates=MEMIT_CONTEXTS),
        moments=known,
        preservation_weight=100.0,
    )
    rome.prepare(base)
    memit.prepare(base)
    kept = {layer: 100.0 * known.matrices[layer] for layer in LAYERS}

    def plain_memit(count: int) -> object:
        return plain.memit(base, every[:count], MEMIT_CONTEXTS, LAYERS, kept, memit_targets)

    rows = [
        alternate(
            "rome_single",
            lambda: rome.edit(base, every[:1]),
            lambda: plain.rome(base, every[0], ROME_CONTEXTS, 5, known.matrices[5], rome_targets),
            1,
            "layer 5, 21 contexts",
        ),
        alternate(
            "memit_single", lambda: memit.edit(base, every[:1]), lambda: plain_memit(1), 1, "layers 3-7"
        ),
        alternate(
            "memit_batch100",
            lambda: memit.edit(base, every),
            lambda: plain_memit(PLAIN_FACTS),
            BATCH / PLAIN_FACTS,
            f"layers 3-7; one run; plain measured on {PLAIN_FACTS} facts and scaled",
            runs=1,
        ),
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2) + "\n")
    table = Table("name", "plain s", "fast s", "ratio", "note")
    for row in rows:
        table.add_row(
            row["name"], f"{row['plain_s']:.2f}", f"{row['fast_s']:.2f}", f"{row['ratio']:.1f}", row["note"]
        )
    Console().print(table)


if __name__ == "__main__":
    main()
