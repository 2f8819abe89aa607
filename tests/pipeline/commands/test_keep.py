"""A kept copy gives the same numbers as its run, and lacks what is large or names something."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from analysis.results.run_folder import RunFolder
from pipeline.commands import keep
from pipeline.launch import launch

Composed = Callable[..., DictConfig]
SMALL = (
    "stage=[norms,efficacy,generation]",
    "edits=2",
    "keep_weights=true",
    "intervention.keep_updates=true",
)


def finished(config: DictConfig, root: Path) -> Path:
    launch(config, root)
    (folder,) = (root / "test").glob("*-*")
    return folder


def test_a_copy_has_the_numbers_and_lacks_texts_weights_and_the_machine(
    composed: Composed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = finished(composed(*SMALL), tmp_path / "runs")
    assert keep.main([str(run), f"out={tmp_path / 'kept'}"]) == 0
    copy = Path(capsys.readouterr().out.splitlines()[-1])
    assert copy == tmp_path / "kept" / run.name
    assert {path.name for path in copy.iterdir()} == {
        "DONE", "config.yaml", "edits.parquet", "metrics.jsonl.gz", "provenance.json", "summary.json",
    }  # fmt: skip
    RunFolder(copy).verify("*")
    assert {"records.parquet", "generations.parquet"} <= {path.name for path in run.iterdir()}
    assert RunFolder(copy).rows() == RunFolder(run).rows()
    assert RunFolder(copy).final_summary() == RunFolder(run).final_summary()
    provenance = json.loads((copy / "provenance.json").read_text())
    assert not {"host", "platform", "command"} & set(provenance)
    assert provenance["packages"]


def test_what_cannot_be_kept_is_refused(composed: Composed, tmp_path: Path):
    run = finished(composed("stage=[norms]", "edits=1"), tmp_path / "runs")
    assert "is inside the run" in str(keep.main([str(run), f"out={run / 'kept'}"]))
    arguments = [str(run), f"out={tmp_path / 'kept'}"]
    assert keep.main(arguments) == 0
    assert "exists already" in str(keep.main(arguments))
    (run / "summary.json").write_text("{}")
    assert "summary.json" in str(keep.main([str(run), f"out={tmp_path / 'again'}"]))
    assert not (tmp_path / "again").exists()
