"""Synthetic runs that train, and runs of several parts, in the documented format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tests.analysis.synthetic import _activations, _norms, _probes, _scores, synthetic_lines

BLOCKS = 6
TOKENS = 2048
"""Read in an optimiser step."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a run: training, or the edits of a synthetic editor."""

    name: str
    total: int
    editor: str = ""
    ratio: float = 1.4
    """Of the trained matrices by the end."""
    everything: bool = True
    """Whether all matrices are trained, or the MLP outputs of blocks 1 and 2 alone."""
    adapters: bool = False

    @property
    def unit(self) -> str:
        return "edits" if self.editor else "steps"


def training_lines(part: Part, *, seed: int) -> list[dict[str, float]]:
    """Rows of training: no update is told, so there are no growth terms."""
    noise = np.random.default_rng([seed, len(part.name)])
    ratio = part.ratio ** ((np.arange(part.total + 1) / part.total) ** noise.uniform(0.6, 0.8))
    blocks = tuple(range(BLOCKS)) if part.everything else (1, 2)
    lines = []
    for step in range(part.total + 1):
        whole = step % 10 == 0 or step == part.total
        line: dict[str, float] = {}
        if whole:
            line |= _norms(ratio, step, 0.5, False, True, BLOCKS, blocks, part.everything)
        if step % 20 == 0:
            fallen = 0.3 * step / part.total
            line |= _scores(fallen, noise, 0)
            line |= _activations(fallen, noise, BLOCKS, blocks) | _probes(fallen, noise, BLOCKS, step)
        if step:
            line["train/loss/step"] = 3.5 * (1 + step) ** -0.3 + noise.normal(scale=0.05)
            line["train/learning_rate/step"] = 1e-4
        if part.adapters:
            line |= _adapters(step / part.total)
        lines.append(line)
    return lines


def _adapters(share: float) -> dict[str, float]:
    return {
        f"lora/{norm}/attn_q.{block:02d}": value * (1 + 0.1 * block)
        for block in range(BLOCKS)
        for norm, value in {"norm_product": share, "norm_a": 2 + 0.2 * share, "norm_b": 0.8 * share}.items()
    }


def numbered(parts: Sequence[Part], *, seed: int) -> list[dict[str, object]]:
    """The rows of all parts with part, unit and what was done so far."""
    rows: list[dict[str, object]] = []
    done = {"edits": 0, "steps": 0, "tokens": 0}
    for place, part in enumerate(parts):
        start = dict(done)
        for line in _lines(part, seed):
            count = int(line.pop("edits", len(rows) - sum(one.total + 1 for one in parts[:place])))
            done |= {part.unit: count}
            if part.unit == "steps":
                done["tokens"] = start["tokens"] + TOKENS * count
            bookkeeping = {"part": place, "unit": part.unit, "step": len(rows), **done}
            rows.append(bookkeeping | {key: float(value) for key, value in line.items() if "/" in key})
    return rows


def _lines(part: Part, seed: int) -> list[dict[str, float]]:
    if not part.editor:
        return training_lines(part, seed=seed)
    return synthetic_lines(
        part.editor, seed=seed, edits=part.total, every=1, blocks=BLOCKS, edited=(1,), trained=False
    )


def write_parts(
    root: Path, *parts: Part, seed: int = 0, name: str = "quick", settings: Mapping[str, object] | None = None
) -> Path:
    """A finished run of these parts in `root/name`."""
    editor = next((part.editor for part in parts if part.editor), "")
    intervention = parts[0].name if len(parts) == 1 else "sequence"
    config = {
        "name": name, "seed": seed, "model": {"name": "tiny-gpt2"}, "data": {"name": "world"},
        "editor": {"name": editor} if editor else None, "intervention": {"name": intervention},
        **(settings or {}),
    }  # fmt: skip
    rows = numbered(parts, seed=seed)
    folder = root / name / f"{'-'.join(part.name for part in parts)}-{seed}-{len(list(root.glob('*/*')))}"
    folder.mkdir(parents=True)
    summary = {
        "run": folder.name, "name": name, "editor": editor, "model": "tiny-gpt2", "data": "world",
        "intervention": intervention, "seed": seed, "objective": None, "seconds": 9.5, "stopped": False,
        "statistics": "given" if editor else "", "metrics": {}, "alarms": [],
        "edits": sum(part.total for part in parts if part.editor), "tokens": rows[-1]["tokens"],
        "steps": sum(part.total for part in parts if not part.editor),
        "parts": [
            {"name": part.name, "unit": part.unit, "total": part.total, "count": part.total} for part in parts
        ],
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "provenance.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "DONE").write_text("")
    return folder
