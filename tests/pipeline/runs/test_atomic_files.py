"""Files that are written whole, in JSON that every parser reads."""

import json
import math
import re
from pathlib import Path

import pytest

from analysis.results.run_files import read_object
from analysis.results.run_folder import RunFolder
from pipeline.runs.atomic_files import write_json

VALUE = {
    "metrics": {"a/b": math.nan, "a/c": math.inf, "a/d": -math.inf, "a/e": 0.1, "a/f": None},
    "text": 'NaN, "Infinity" \\" -Infinity é',
    "alarms": [{"signature": "a", "sentence": "b", "value": math.nan}],
}


def refuse(token: str) -> float:
    raise ValueError(token)


def test_a_written_file_is_strict_json(tmp_path: Path):
    write_json(tmp_path / "summary.json", VALUE)
    strict = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert strict["metrics"] == {"a/b": None, "a/c": math.inf, "a/d": -math.inf, "a/e": 0.1, "a/f": None}
    assert strict["text"] == VALUE["text"]
    assert strict["alarms"][0]["value"] is None


def test_numbers_that_are_not_finite_are_read_again(tmp_path: Path):
    write_json(tmp_path / "summary.json", VALUE)
    metrics = RunFolder(tmp_path).summary()["metrics"]
    assert math.isnan(metrics["a/b"]) and metrics["a/c"] == math.inf and metrics["a/d"] == -math.inf


def test_an_older_file_with_nan_is_read_as_before(tmp_path: Path):
    (tmp_path / "summary.json").write_text('{"metrics": {"a/b": NaN, "a/c": Infinity}}')
    metrics = RunFolder(tmp_path).summary()["metrics"]
    assert math.isnan(metrics["a/b"]) and metrics["a/c"] == math.inf


@pytest.mark.parametrize("text", ["\ud800", "a \udcff name"])
def test_what_is_no_unicode_is_replaced(tmp_path: Path, text: str):
    write_json(tmp_path / "x.json", {"text": text})
    assert read_object(tmp_path / "x.json") == {"text": re.sub("[\ud800-\udfff]", "\ufffd", text)}
