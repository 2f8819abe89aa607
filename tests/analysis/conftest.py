"""Synthetic run folders in the documented format; norms and growth terms agree as in real ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

BLOCKS = 6
EDITED = 1
SITES = ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down")
WriteRun = Callable[..., Path]

# final norm ratio, share of the growth that is ‖Δ‖², how far scores have fallen at the end
EDITORS = {"rome": (40.0, 0.7, 0.9), "memit": (110.0, 0.4, 0.7), "encore": (1.16, 0.8, 0.08)}


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a finished run into `tmp_path/<name>/<fingerprint>` and returns its folder."""
    return lambda **choices: make_run(tmp_path, **choices)


@pytest.fixture
def experiment(write_run: WriteRun, tmp_path: Path) -> Path:
    """Three editors, two seeds each, one failed and one running run."""
    for editor in EDITORS:
        for seed in (0, 1):
            write_run(editor=editor, seed=seed)
    failed = write_run(editor="memit", seed=2)
    (failed / "DONE").unlink()
    (failed / "FAILED").write_text("the norm is NaN after 17 edits; lower the step size\nTraceback …\n")
    (write_run(editor="memit", seed=3) / "DONE").unlink()
    return tmp_path / "quick"


def make_run(
    root: Path, *, editor: str, seed: int = 0, name: str = "quick", edits: int = 60, every: int = 1,
    editor_label: str | None = None, settings: dict[str, object] | None = None,
) -> Path:  # fmt: skip
    label = editor_label or editor
    config = {
        "name": name, "seed": seed, "edits": edits, "batch_size": 1,
        "model": {"name": "tiny-gpt2", "dtype": "float32"},
        "editor": {"name": label, "steps": 20 if editor == "rome" else 25},
        "layers": {"edit": [EDITED]}, "data": {"name": "world", "seed": seed},
        "intervention": {"name": "knowledge_edit"}, "tracker": {}, "launcher": None, "resume": True,
    }  # fmt: skip
    config |= settings or {}
    lines = synthetic_lines(editor, seed=seed, edits=edits, every=every)
    same = len(list((root / name).glob(f"{editor}-{seed}-*")))
    folder = root / name / f"{editor}-{seed}-{same}"
    folder.mkdir(parents=True)
    last = {key: value for line in lines for key, value in line.items() if "/" in key}
    summary = {
        "run": folder.name, "name": name, "editor": label, "model": "tiny-gpt2", "data": "world",
        "intervention": "knowledge_edit", "seed": seed, "edits": edits, "batch_size": 1, "objective": 0.5,
        "seconds": 31.5 + seed, "metrics": last,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "provenance.json").write_text(json.dumps({"git": {"sha": "0123abc"}, "python": "3.11.7"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "DONE").write_text("")
    return folder


def synthetic_lines(editor: str, *, seed: int, edits: int, every: int) -> list[dict[str, float]]:
    noise = np.random.default_rng([seed, len(editor)])
    final, square_share, fall = EDITORS[editor]
    done = np.arange(edits + 1)
    ratio = final ** ((done / edits) ** noise.uniform(0.9, 1.2))
    lines = []
    for step in range(edits + 1):
        line: dict[str, float] = {"step": step, "edits": step, "time/step/seconds": 0.1}
        line |= _norms(ratio, step, square_share, logged_growth=step % every == 0)
        if step % 10 == 0:
            line |= _scores(fall * (step / edits) ** 1.3, noise, edited=step > 0)
        lines.append(line)
    return lines


def _norms(ratio: np.ndarray, step: int, square_share: float, *, logged_growth: bool) -> dict[str, float]:
    line = {"norm/frobenius_ratio/edited": ratio[step], "norm/frobenius_ratio/static": 1.0}
    for place, site in enumerate(SITES):
        for block in range(BLOCKS):
            start = 12 + 3 * place + block
            grown = ratio[step] if (site, block) == ("mlp_down", EDITED) else 1.0
            line[f"norm/frobenius/{site}.{block:02d}"] = start * grown
    if step and logged_growth:
        start = 12 + 3 * SITES.index("mlp_down") + EDITED
        growth = start**2 * (ratio[step] ** 2 - ratio[step - 1] ** 2)
        where = f"mlp_down.{EDITED:02d}"
        line[f"norm/growth_cross/{where}"] = growth * (1 - square_share)
        line[f"norm/growth_square/{where}"] = growth * square_share
        line[f"norm/delta/{where}"] = (growth * square_share) ** 0.5
    return {key: float(value) for key, value in line.items()}


def _scores(fallen: float, noise: np.random.Generator, *, edited: bool) -> dict[str, float]:
    def near(value: float) -> float:
        return float(np.clip(value + noise.normal(scale=0.02), 0, 1))

    line = {"edit/known/unedited": near(0.98 - fallen)}
    tasks = {
        task: near(best - 0.5 * fallen) for task, best in (("sentiment", 0.95), ("qa", 0.9), ("choice", 0.4))
    }
    line |= {f"downstream/{task}/acc": value for task, value in tasks.items()}
    line["downstream/mean/acc"] = sum(tasks.values()) / len(tasks)
    if edited:
        seen = (near(0.99 - 0.6 * fallen), near(0.95 - 0.6 * fallen), near(0.93 - 0.3 * fallen))
        line |= dict(
            zip((f"edit/success/seen.{k}" for k in ("rewrite", "paraphrase", "neighbour")), seen, strict=True)
        )
        line["edit/score/seen"] = 3 / sum(1 / max(value, 1e-6) for value in seen)
        line["edit/success/first50.rewrite"] = near(0.99 - 0.8 * fallen)
        line["edit/known/other"] = near(0.7 - fallen)
    return line
