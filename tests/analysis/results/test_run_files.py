"""Files of a run that anybody may have written: each has the right types, or there is a sentence about it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.__main__ import main
from analysis.results.collection import collect
from analysis.results.comparison import comparison, read_one
from analysis.results.run_files import LIMIT, json_object, opened, read_config, read_row
from analysis.results.run_folder import RunFolder
from analysis.results.run_tables import read_table
from editors.errors import DataError
from tests.analysis.conftest import WriteRun

PAIRS = zip("abcdefgh", "bcdefghi", strict=True)
BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in PAIRS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested more than 100 deep"),
        ("{a: " * 100_000, "nested more than 100 deep"),
        ("- " * 100_000, "nested more than 100 deep"),
        ("zz: &a {b: *a}\n", r"alias \*a, which a run never writes"),
        (BOMB, r"alias \*a"),
        ("name: x\n" + "#" * (1 << 20), "larger than 1 MiB"),
        ("name: 2024-01-01\n", "a date or a huge number"),
        ("seed: 0x" + "f" * 20_000, "a date or a huge number"),
        ("seed: " + "1" * 20_000, r"cannot be read \(ValueError\)"),
        ("a: !!python/object/apply:os.getcwd []\n", r"cannot be read \(ConstructorError\)"),
        ("model: [1]\n", r"model=\[1\]: input should be a valid dictionary"),
        ("model: {name: 7}\n", "model.name=7: input should be a valid string"),
        ("seed: x\n", "seed='x': input should be a valid integer"),
        ("layers: {edit: all}\n", "layers.edit='all': input should be a valid list"),
        ("- a\n", "holds no configuration"),
    ],
)
def test_a_configuration_that_no_run_wrote_gets_a_sentence(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=reason) as problem:
        read_config(path)
    assert str(problem.value).startswith(f"{path} ") and "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seconds": {}}, "seconds={}: input should be a valid number"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"edits": "x"}, "edits='x': input should be a valid integer"),
        ({"edits": 2**60}, "edits=1152921504606846976: input should be less than or equal to"),
        ({"edits": True}, "edits=True"),
        ({"seed": None}, "seed=None"),
        ({"outcome": {"edits": 1, "checked": 1}}, "outcome.took="),
        ({"alarms": 7}, "alarms=7: input should be a valid list"),
        ({"alarms": [{"signature": "a"}]}, "alarms.0.sentence="),
        ({"parts": [{"name": "a", "unit": "hours"}]}, "parts.0.unit='hours'"),
        ({"metrics": {"a/b": "0.5"}}, "metrics.a/b='0.5'"),
        ({"editor": ["memit"]}, r"editor=\['memit'\]"),
    ],
)
def test_a_wrong_type_in_a_summary_leaves_the_run_out_and_is_named(
    write_run: WriteRun, change: dict[str, object], reason: str
):
    run = write_run(editor="memit", edits=4)
    write_run(editor="rome", edits=4)
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=reason):
        RunFolder(run).final_summary()
    (left,) = collect(run.parent).unfinished
    assert left.status == "unreadable" and f"cannot be used: {next(iter(change))}" in left.sentence


def test_a_summary_that_lacks_fields_is_told_which(write_run: WriteRun):
    run = write_run(editor="memit", edits=4)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "editor": None} | {"x": 1}))
    assert collect(run.parent).runs["editor"].tolist() == [""]
    del summary["editor"], summary["seconds"]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match=r"summary\.json has no editor, seconds"):
        collect(run.parent)


@pytest.mark.parametrize("field", ["git", "packages", "inputs", "overrides"])
def test_a_provenance_of_other_types_is_a_note(write_run: WriteRun, field: str):
    run = write_run(editor="memit", edits=4)
    (run / "provenance.json").write_text(json.dumps({field: 7}))
    assert f"provenance.json cannot be used: {field}=7" in collect(run.parent).notes[0]


def test_a_half_of_a_surrogate_pair_is_no_text(write_run: WriteRun, capsys: pytest.CaptureFixture[str]):
    run, other = write_run(editor="memit", edits=4), write_run(editor="memit", edits=4)
    (run / "provenance.json").write_text('{"command": "\\ud800"}')
    assert main(["compare", str(run), str(other)]) == 0
    assert json_object('{"\\ud800": 1}') is None and json_object('{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    "row",
    [
        {"edits": 10**30, "a/b": 1.0},
        {"edits": -1, "a/b": 1.0},
        {"edits": 1.5, "a/b": 1.0},
        {"edits": 1, "unit": "hours", "a/b": 1.0},
        {"edits": 1, "part": "x", "a/b": 1.0},
        {"edits": 1, "a/b": 10**400},
        {"edits": 1, "a/b": "0.5"},
        {"edits": 1, "a/b": True},
        {"edits": 1, "a/\x1b[31mb": 0.5},
    ],
)
def test_a_row_of_other_types_is_an_unreadable_line(write_run: WriteRun, row: dict[str, object]):
    run, other = write_run(editor="memit", edits=4), write_run(editor="memit", edits=4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert RunFolder(run).rows()[1] == ("skipped 1 unreadable line(s) of metrics.jsonl, first line 6.",)
    result = comparison(read_one(run), read_one(other))
    assert result.is_equal and result.notes


def test_numbers_of_rows_are_read_to_the_bit():
    values = [0.1, 1e-308, 5e-324, 1.7976931348623157e308, 2 / 3, 123456789.123456789, -0.0]
    line = json.dumps({"edits": 1, **{f"a/{place}": value for place, value in enumerate(values)}})
    row = read_row(line.encode())
    assert row is not None
    assert [row[f"a/{place}"].hex() for place in range(len(values))] == [value.hex() for value in values]
    diverged = read_row(b'{"edits": 1, "a/b": NaN, "a/c": -Infinity, "a/d": null}')
    assert diverged is not None and diverged["a/c"] == float("-inf")
    assert diverged["a/b"] != diverged["a/b"] and diverged["a/d"] != diverged["a/d"]


def test_a_line_without_an_end_is_skipped(tmp_path: Path):
    row = b'{"edits": 1, "a/b": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(row + b"x" * (LIMIT + 10) + b"\n" + row)
    rows, notes = RunFolder(tmp_path).rows()
    assert len(rows) == 2 and "first line 2" in notes[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
    ],
)
@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "summary.json", "provenance.json", "FAILED"]
)
def test_a_folder_pipe_loop_or_device_in_place_of_a_file(
    write_run: WriteRun, name: str, make: Callable[[Path], None]
):
    run = write_run(editor="memit", edits=4)
    write_run(editor="rome", edits=4)
    (run / name).unlink(missing_ok=True)
    make(run / name)
    with pytest.raises((OSError, DataError)):
        opened(run / name)
    collection = collect(run.parent)
    assert len(collection.runs) in (1, 2) and (collection.notes or collection.unfinished or name == "FAILED")


def test_a_table_is_read_whatever_pandas_noted_in_it(tmp_path: Path):
    path = tmp_path / "records.parquet"
    pd.DataFrame({"a": [1]}, index=pd.Index([5], name="b")).to_parquet(path)
    assert read_table(path) == [{"a": 1, "b": 5}]
    path.write_text("no table")
    with pytest.raises(DataError, match=r"cannot be read \(ArrowInvalid\)"):
        read_table(path)


def test_the_files_of_a_run_of_ours_have_their_types(write_run: WriteRun):
    run = RunFolder(write_run(editor="memit", edits=4))
    assert run.config() == yaml.safe_load((run.path / "config.yaml").read_text())
    assert run.final_summary() == json.loads((run.path / "summary.json").read_text())
