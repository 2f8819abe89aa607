"""The one reader of a run's folder: how a run ended, and files that are torn, compressed, missing or old."""

import gzip
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from analysis.results.comparison import comparison, read_one
from analysis.results.former_targets import FORMER, with_current_targets
from analysis.results.run_folder import MARKS, RunFolder, run_folders, runs_in
from editors.errors import DataError
from tests.analysis.conftest import WriteRun
from tests.paths import ROOT


@pytest.mark.parametrize("mark", MARKS)
def test_one_file_of_a_run_makes_a_folder_a_run(tmp_path: Path, mark: str):
    (tmp_path / "run").mkdir()
    assert not RunFolder(tmp_path / "run").is_run and not runs_in(tmp_path)
    (tmp_path / "run" / mark).touch()
    assert runs_in(tmp_path) == [RunFolder(tmp_path / "run")] == run_folders([tmp_path, tmp_path / "run"])


@pytest.mark.parametrize(
    ("files", "state", "failure"),
    [
        ({}, "unfinished", ""),
        ({"FAILED": "no \x1b[31mmemory\nTraceback"}, "failed", "no  [31mmemory"),
        ({"FAILED": "\n"}, "failed", "no reason was recorded"),
        ({"FAILED": "once", "DONE": "2026-01-31T12:00:00+00:00"}, "done", ""),
    ],
)
def test_the_marks_say_how_a_run_ended(tmp_path: Path, files: dict[str, str], state: str, failure: str):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = RunFolder(tmp_path)
    assert (run.state, run.failure, run.is_done) == (state, failure, state == "done")


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.jsonl.gz"])
def test_lines_without_a_row_are_left_out_and_the_first_is_named(tmp_path: Path, name: str):
    text = b'{"edits": 0}\n[1]\n{"edits": 1, "text": "\xff"}\n{"edits": 2, "no'
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    rows, notes = RunFolder(tmp_path).rows()
    assert [row["edits"] for row in rows] == [0, 1]
    assert notes == ("skipped 2 unreadable line(s) of metrics.jsonl, first line 2.",)


def test_a_compressed_file_that_is_cut_is_an_error_not_a_shorter_run(tmp_path: Path):
    (tmp_path / "metrics.jsonl.gz").write_bytes(gzip.compress(b'{"edits": 0}\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"metrics\.jsonl\.gz is cut short"):
        RunFolder(tmp_path).rows()
    assert RunFolder(tmp_path / "absent").rows() == ([], ())


@pytest.mark.parametrize("damage", ["{", "[1]", "[" * 200_000])
def test_a_broken_file_of_a_run_is_no_empty_file(tmp_path: Path, damage: str):
    run = RunFolder(tmp_path)
    assert run.summary() == run.provenance() == {}
    for name in ("summary.json", "provenance.json", "config.yaml"):
        (tmp_path / name).write_text(damage)
    for read in (run.summary, run.provenance):
        with pytest.raises(DataError, match=r"json cannot be read: it holds no JSON object"):
            read()
    with pytest.raises(DataError, match=r"summary\.json cannot be read: delete the folder"):
        run.final_summary()
    with pytest.raises(DataError, match=r"config\.yaml (cannot be read|holds no configuration|is nested)"):
        run.config()


def test_a_run_of_an_older_layout_has_the_same_settings(write_run: WriteRun):
    targets = ("editors.model.loading.Checkpoint", "editors.models.loading.Checkpoint", "old.place.Watch")
    folders = [write_run(editor="memit", settings={"model": {"_target_": target}}) for target in targets]
    assert RunFolder(folders[0]).config() == RunFolder(folders[1]).config()
    other = write_run(editor="memit", settings={"model": {"_target_": "new.place.Watch"}})
    assert not len(comparison(read_one(folders[2]), read_one(other)).settings)
    different = comparison(read_one(folders[0]), read_one(other)).settings
    assert different[["a", "b"]].to_numpy().tolist() == [["Checkpoint", "Watch"]]


def test_only_texts_are_taken_for_names_of_classes(tmp_path: Path):
    config = {"a": {"_target_": ["x"]}, "b": [{"_target_": "pipeline.data.ZsRE"}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    current = {"a": {"_target_": ["x"]}, "b": [{"_target_": "pipeline.data.sources.ZsRE"}]}
    assert RunFolder(tmp_path).config() == current


def test_the_reader_needs_neither_pandas_nor_torch():
    script = "import sys, analysis.results.run_folder; sys.exit(bool({'pandas', 'torch'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def test_brackets_nested_deep_are_an_unreadable_file(tmp_path: Path):
    deep = "[" * 200_000
    (tmp_path / "metrics.jsonl").write_text(deep + "\n" + '{"edits": 0, "norm/delta/mlp_down.00": 1.0}\n')
    rows, notes = RunFolder(tmp_path).rows()
    assert len(rows) == 1 and "first line 1" in notes[0]


@pytest.mark.parametrize("target", FORMER.values())
def test_the_classes_of_older_runs_are_where_the_map_says(target: str):
    module, _, name = target.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert with_current_targets({"_target_": target})["_target_"] == target
