"""A run that was killed anywhere ends with the same bits as one that was not.

The quick ones belong to the default suite; `make chaos` kills every editor, the regularizers with a
memory and the trainings at 60 random moments and more.
"""

import json
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.results.run_folder import runs_in
from tests.chaos.victim import live
from tests.pipeline.forked import fork_server

SHORT = [
    "stage=[norms,efficacy,signatures]",
    "stage.norms.cadence.every=1",
    "stage.efficacy.cadence.every=5",
    "stage.signatures.norm_growth=1.01",
    "tracker=none",
    "launcher.threads=1",
    "name=chaos",
]
EDITS = [*SHORT, "edits=12", "intervention.save_every=3"]
TRAINING = [*SHORT, "steps=8", "training.save_every=2", "training.adapter.dropout=0.1"]
REGULARIZERS = "history,norm_anchor,norm_reset,prune,subspace_guard,hypersphere,rect,simie"
RUNS: dict[str, list[str]] = {
    **{
        editor: [*EDITS, f"editor={editor}"]
        for editor in (
            "rome r_rome memit pmet emmet alphaedit betaedit encore lti ft ft_l ft_m locft ultraedit "
            "stableedit mose mend"
        ).split()
    },
    "lora editor": [*EDITS, "editor=lora", "edits=6"],
    **{name: [*EDITS, f"regularizer=[{name}]", "batch_size=2"] for name in REGULARIZERS.split(",")},
    **{name: [*TRAINING, f"intervention={name}"] for name in ("cpt", "fft", "lora")},
    "training, then edits": [
        *TRAINING, "intervention=cpt_then_edit", "edits=6", "intervention.parts.second.save_every=2"
    ],
    "edits between steps": [*TRAINING, "intervention=edit_while_training", "intervention.every=1", "edits=6"],
}  # fmt: skip
RUNS["hypernetwork"] = [
    *SHORT[-3:], "intervention=hypernetwork", "editor=mend", "stage=[]", "editor.training.steps=12",
    "editor.training.validate_every=3", "editor.training.validation=4", "editor.training.accumulate=2",
]  # fmt: skip
RUNS["kept updates"] = [*EDITS, "batch_size=2", "intervention.keep_updates=true"]
RUNS["context"] = [*EDITS, "editor=context"]
RUNS["growth"] = [*EDITS, "editor=growth", "layers.edit=[0]"]
CONTROLS = (
    "none",
    "random_direction",
    "whitened_direction",
    "norm_kept",
    "drift_kept",
    "scaled",
    "grow_all",
    "rotated",
    "spread",
    "norm_rescaled",
)
RUNS |= {
    f"replay, {control}": [
        *SHORT, "intervention=replay", "intervention.save_every=3", "intervention.source=../recorded/real",
        f"intervention/control={control}",
    ]
    for control in CONTROLS
}  # fmt: skip
RECORDED = [*EDITS, "intervention.keep_updates=true", "name=real"]
"""What replays apply again."""
RUNS["compensation"] = [*EDITS, "editor=rect", "editor.compensate=true", "batch_size=2"]
RUNS["prune"] += ["regularizer.prune.every=4"]
RUNS["norm_reset"] += ["regularizer.norm_reset.every=4"]
RUNS["norm_anchor"] += ["regularizer.norm_anchor.samples=6"]
QUIET = ("time/", "memory/")


def process(*arguments: Any) -> BaseProcess:
    """A victim, forked from a process that has loaded everything already."""
    return fork_server().Process(target=live, args=arguments)


def finish(overrides: list[str], root: Path) -> None:
    last = process(overrides, root)
    last.start()
    last.join()
    assert last.exitcode == 0


def left_by(root: Path) -> dict[str, Any]:
    """The results of a run, without its times."""
    folder = runs_in(root / "chaos")[0].path
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "rows": [{key: value for key, value in row.items() if not key.startswith(QUIET)} for row in rows],
        "tables": {path.name: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))},
        "summary": {
            key: summary.get(key)
            for key in ("objective", "parts", "outcome", "alarms", "edits", "steps", "tokens")
        },
        "files": sorted(path.name for path in folder.iterdir()),
    }


def compare(root: Path, whole: Path) -> None:
    left, expected = left_by(root), left_by(whole)
    for key in ("rows", "summary", "files"):
        assert left[key] == expected[key], key
    for name, table in expected["tables"].items():
        pd.testing.assert_frame_equal(left["tables"][name], table)


def was_killed(overrides: list[str], root: Path, moment: random.Random, whole: Path, seconds: float) -> bool:
    """Let the run go on, and kill it: half the time inside of a write, else after some time."""
    writes = int((whole / "writes").read_text())
    dies_at = moment.randint(1, writes) if moment.random() < 0.5 else None
    victim = process(overrides, root, dies_at)
    victim.start()
    if dies_at is None:
        time.sleep(moment.uniform(0, seconds))
        victim.kill()
    victim.join()
    assert victim.exitcode in (0, -signal.SIGKILL)
    return victim.exitcode != 0


def survive(name: str, tmp_path: Path, kills: int, seed: int) -> None:
    overrides, moment = RUNS[name], random.Random(f"{name} {seed}")
    whole, root = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    root.mkdir()
    if name.startswith("replay"):
        (tmp_path / "recorded").mkdir()
        finish(RECORDED, tmp_path / "recorded")
    begun = time.perf_counter()
    finish(overrides, whole)
    seconds = time.perf_counter() - begun
    killed = 0
    while killed < kills:
        if was_killed(overrides, root, moment, whole, seconds):
            killed += 1
        else:  # it came to its end before: from the beginning
            shutil.rmtree(root / "chaos")
    finish(overrides, root)
    compare(root, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["history", pytest.param("edits between steps", marks=pytest.mark.long)])
def test_a_killed_run_ends_with_the_same_bits(name: str, tmp_path: Path):
    survive(name, tmp_path, kills=3, seed=0)


@pytest.mark.chaos
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(name: str, tmp_path: Path):
    survive(name, tmp_path, kills=3, seed=1)
