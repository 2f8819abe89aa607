"""What `make gpu` runs, at narrow shapes and without a GPU, so that it cannot rot."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.__main__ import PARTS, TOTAL, Part, run
from tests.gpu.bench import Bench, Row
from tests.gpu.results import markdown
from tests.paths import ROOT


def two(_: Bench) -> Iterator[Row]:
    yield {"what": "first", "fact_s": 0.5, "fact_s_goal": 0.6, "utilisation": 0.2, "utilisation_goal": 0.45}
    yield {"what": "second", "passed": True}


def slow(_: Bench) -> Iterator[Row]:
    yield {"what": "before"}
    while True:
        try:
            time.sleep(10)
        except Exception:  # as around an editor that fails
            continue


def broken(_: Bench) -> Iterator[Row]:
    yield {"what": "before"}
    raise ValueError("no such kernel | here")


def test_what_ended_is_kept(tmp_path: Path):
    """One part outlasts its budget, one fails, and for one there is no time."""
    parts = [Part("slow", 0.2, slow), Part("broken", 1, broken), Part("two", 1, two), Part("late", 60, two)]
    run(parts, tmp_path, total=30)
    content = json.loads((tmp_path / "gpu.json").read_text())
    statuses = {part["part"]: part["status"].partition(":")[0] for part in content["parts"]}
    assert statuses == {"slow": "interrupted", "broken": "failed", "two": "done", "late": "skipped"}
    assert [len(part["rows"]) for part in content["parts"]] == [1, 1, 2, 0]
    assert (tmp_path / "gpu.md").read_text() == markdown(content)


def test_the_table_has_a_line_for_every_row_and_says_which_goals_are_met(tmp_path: Path):
    run([Part("two", 1, two), Part("broken", 1, broken)], tmp_path)
    lines = [line for line in (tmp_path / "gpu.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(lines) == 4
    assert "fact_s ≤ 0.6: met" in lines[0] and "utilisation ≥ 0.45: missed" in lines[0]
    assert "no such kernel \\| here" in lines[-1]


def test_the_budgets_fit_into_nine_minutes():
    assert sum(part.budget for part in PARTS) <= TOTAL < 9 * 60


@pytest.mark.long
def test_every_part_ends_without_a_gpu(tmp_path: Path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.gpu", f"out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [(part["part"], part["status"]) for part in content["parts"]] == [(p.name, "done") for p in PARTS]
    rows = [row for part in content["parts"] for row in part["rows"]]
    assert all(row["passed"] for row in rows if "passed" in row), rows
    assert {"memit", "memit, stopped early", "rome", "spectra"} <= {row["what"] for row in rows}
    assert not any(key.endswith("_goal") for row in rows for key in row), "goals are for a GPU"
