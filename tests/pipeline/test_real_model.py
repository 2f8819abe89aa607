"""The experiment of `make real`, shortened to one batch of three edits."""

import json
from pathlib import Path

import pytest

from tests.pipeline.test_cli import run
from tests.smollm2 import require_smollm2


@pytest.mark.slow
def test_three_facts_are_edited_into_a_real_model_and_what_it_knows_stays(tmp_path: Path) -> None:
    require_smollm2(tmp_path)
    process = run(
        tmp_path,
        "experiment=real",
        "model.source=package",
        "hydra.sweeper.params.editor=memit",
        "edits=3",
        "batch_size=3",
        "stage=[norms,efficacy,downstream,signatures]",
        "stage.downstream.tasks.real.limit=10",
        "tracker=none",
    )
    assert process.returncode == 0, process.stderr
    (file,) = (tmp_path / "outputs" / "real").glob("*-*/metrics.jsonl")
    unedited, edited = (json.loads(file.read_text().splitlines()[row]) for row in (0, -1))
    assert edited["edit/success/seen.rewrite"] == 1.0
    assert edited["edit/took/mean"] >= 2 / 3
    assert 1.0 < edited["norm/frobenius_ratio/edited"] < 1.1
    assert unedited["edit/known/unedited"] == 1.0, "facts that the model knows"
    assert edited["edit/known/unedited"] > 0.8
