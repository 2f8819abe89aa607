"""Synthetic run folders in the documented format."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from threadpoolctl import threadpool_limits

from tests.analysis.synthetic import EDITORS, synthetic_lines

BLOCKS = 6
EDITED = 1
WriteRun = Callable[..., Path]


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
    editor_label: str | None = None, settings: dict[str, object] | None = None, blocks: int = BLOCKS,
    edited: tuple[int, ...] = (EDITED,), trained: bool = False,
) -> Path:  # fmt: skip
    label = editor_label or editor
    config = {
        "name": name, "seed": seed, "edits": edits, "batch_size": 1,
        "model": {"name": "tiny-gpt2", "dtype": "float32"},
        "editor": {"name": label, "steps": 20 if editor == "rome" else 25},
        "layers": {"edit": list(edited)}, "data": {"name": "world", "seed": seed},
        "intervention": {"name": "knowledge_edit"}, "tracker": {}, "launcher": None, "resume": True,
    }  # fmt: skip
    config |= settings or {}
    lines = synthetic_lines(
        editor, seed=seed, edits=edits, every=every, blocks=blocks, edited=edited, trained=trained
    )
    same = len(list((root / name).glob(f"{editor}-{seed}-*")))
    folder = root / name / f"{editor}-{seed}-{same}"
    folder.mkdir(parents=True)
    last = {key: value for line in lines for key, value in line.items() if "/" in key}
    summary = {
        "run": folder.name, "name": name, "editor": label, "model": "tiny-gpt2", "data": "world",
        "intervention": "knowledge_edit", "seed": seed, "edits": edits, "batch_size": 1, "objective": 0.5,
        "seconds": 31.5 + seed, "metrics": last, "stopped": False,
        "alarms": [
            {"signature": key.split("/")[1], "edits": at, "sentence": f"{key} at {at:.0f} edits"}
            for key, at in last.items()
            if key.startswith("alarm/")
        ],
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "provenance.json").write_text(json.dumps({"git": {"sha": "0123abc"}, "python": "3.11.7"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "DONE").write_text("")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small products gain nothing from several, and wait long where other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)
