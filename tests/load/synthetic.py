"""Run folders as a finished run leaves them, without a run."""

import json
import random
from pathlib import Path

import yaml

from tests.pipeline.sweeping import context_of

KEYS = (
    "norm/frobenius_ratio/edited", "norm/frobenius_ratio/all", "norm/update/edited", "time/edit/seconds",
    "memory/peak_rss/gib", "edit/success/seen", "edit/score/seen", "text/perplexity/held_out",
)  # fmt: skip


def write_runs(experiment: Path, *, runs: int, rows: int) -> None:
    """`runs` finished runs of `rows` rows each, with a configuration as long as a real one."""
    from pipeline.config.schema import resolved, without_hydra

    context, shared = context_of(["tracker=none"])
    plain = resolved(without_hydra(context.config_loader.load_sweep_config(shared, ["seed=0"])))
    rng = random.Random(0)
    for seed in range(runs):
        folder = experiment / f"{seed:010x}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(plain | {"seed": seed}, sort_keys=False))
        (folder / "provenance.json").write_text(json.dumps({"command": "python -m pipeline", "git": None}))
        lines = (_row(count, rng) for count in range(rows))
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (folder / "summary.json").write_text(json.dumps(_summary(folder, seed, rows)))
        (folder / "DONE").touch()


def _row(count: int, rng: random.Random) -> dict[str, object]:
    place = {"part": 0, "unit": "edits", "step": count, "edits": count, "steps": 0, "tokens": 0}
    return {**place, **{key: rng.random() for key in KEYS}}


def _summary(folder: Path, seed: int, rows: int) -> dict[str, object]:
    return {
        "run": folder.name,
        "name": folder.parent.name,
        "editor": "memit",
        "model": "tiny-gpt2",
        "intervention": "knowledge_edit",
        "data": "world",
        "seed": seed,
        "batch_size": 1,
        "objective": 0.5,
        "seconds": 1.0,
        "metrics": {},
        "edits": rows - 1,
        "steps": 0,
        "tokens": 0,
        "parts": [{"name": "memit", "unit": "edits", "total": rows - 1, "count": rows - 1}],
        "alarms": [],
        "stopped": False,
    }
