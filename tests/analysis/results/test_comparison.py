"""Two runs side by side: what counts as a difference, in which order it is told, and what the status is."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from analysis.__main__ import main
from analysis.results.comparison import Comparison, comparison, read_one, render_comparison
from tests.fake_runs import WriteRun, write_rows

RATIO, KNOWN = "norm/frobenius_ratio/edited", "edit/known/unedited"


def changed(folder: Path, edits: int, **values: float | None) -> None:
    """Overwrite numbers of one row; None takes one away."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    told = {**rows[edits], **{key.replace("__", "/"): value for key, value in values.items()}}
    rows[edits] = {key: value for key, value in told.items() if value is not None}
    write_rows(folder, rows)


def compared(a: Path, b: Path, tolerance: float = 0.0) -> Comparison:
    return comparison(read_one(a), read_one(b), tolerance)


def text_of(found: Comparison, width: int, rows: int | None = None) -> str:
    console = Console(width=width, file=StringIO())
    console.print(render_comparison(found, Path("x"), Path("y"), rows=rows))
    return console.file.getvalue()


@pytest.fixture
def pair(write_run: WriteRun) -> tuple[Path, Path]:
    """The same run twice."""
    return write_run(editor="memit", edits=20), write_run(editor="memit", edits=20)


def test_equal_runs_are_the_same_to_the_bit_whatever_their_time(pair: tuple[Path, Path], capsys):
    changed(pair[1], 3, time__step__seconds=9.0, memory__peak__gib=4.0)
    found = compared(*pair)
    assert found.is_equal and not len(found.settings) and not len(found.provenance)
    assert main(["compare", *map(str, pair)]) == 0
    printed = capsys.readouterr().out
    assert "the same to the bit at 21 common moments" in printed and "no setting differs" in printed
    assert printed.splitlines()[-1].startswith("not compared: time/…, memory/… (A 2.1 s, B 11.0 s)")


def test_a_last_bit_is_a_difference_unless_it_is_tolerated(pair: tuple[Path, Path]):
    value = json.loads((pair[0] / "metrics.jsonl").read_text().splitlines()[7])[RATIO]
    changed(pair[1], 7, **{RATIO: value * (1 + 2**-51)})
    found = compared(*pair)
    assert found.differences["key"].tolist() == [RATIO] and found.differences["count"].tolist() == [7]
    assert 0 < found.differences["relative"][0] < 1e-15
    assert repr(value) in text_of(found, 200), "as many digits as tell them apart"
    assert compared(*pair, tolerance=1e-12).is_equal
    arguments = ["compare", *map(str, pair)]
    assert (main(arguments), main([*arguments, "--tolerance", "1e-12"])) == (1, 0)


def test_the_largest_relative_difference_comes_first_with_where_it_began(pair: tuple[Path, Path]):
    first, second = ({KNOWN: 0.5, RATIO: 100.0}, {KNOWN: 0.25, RATIO: 101.0})
    for edits in (10, 20):
        changed(pair[0], edits, **first)
        changed(pair[1], edits, **second)
    changed(pair[1], 20, **{KNOWN: 0.1})
    found = compared(*pair).differences
    assert found["key"].tolist() == [KNOWN, RATIO]
    assert found["relative"].tolist() == pytest.approx([0.8, 1 / 101])
    assert found["absolute"].tolist() == pytest.approx([0.4, 1.0])
    assert found[["count", "a", "b"]].iloc[0].tolist() == [10, 0.5, 0.25]


def test_no_number_equals_itself_and_nothing_else(pair: tuple[Path, Path]):
    nan, infinity = float("nan"), float("inf")
    for folder in pair:
        changed(folder, 5, **{RATIO: nan})
        changed(folder, 6, **{RATIO: infinity})
    assert compared(*pair).is_equal
    changed(pair[1], 5, **{RATIO: 1.0})
    changed(pair[1], 6, **{RATIO: nan})
    found = compared(*pair, tolerance=0.9).differences
    assert found["relative"].tolist() == [infinity] and found["count"].tolist() == [5]


def test_what_only_one_run_has_is_told_and_counts(write_run: WriteRun, pair: tuple[Path, Path]):
    longer = write_run(editor="memit", edits=20)
    lines = (pair[0] / "metrics.jsonl").read_text().splitlines()
    (pair[0] / "metrics.jsonl").write_text("\n".join(lines[:18]) + "\n")
    (pair[0] / "DONE").unlink()  # an unfinished run will do
    found = compared(pair[0], longer)
    assert found.moments == ([], [(0, "edits", 18), (0, "edits", 19), (0, "edits", 20)])
    assert not len(found.differences) and not found.is_equal
    assert "only B has 3: 18 edits, 19 edits, 20 edits" in text_of(found, 100)
    changed(pair[1], 10, **{KNOWN: None})
    assert compared(pair[1], longer).keys == ({}, {KNOWN: 1})


def test_settings_and_versions_that_differ_are_named_once(write_run: WriteRun):
    weight = [{"regularizer": {"c": {"weight": w}}, "intervention": {"c": {"weight": w}}} for w in (1, 2)]
    a, b = (write_run(editor="memit", settings=settings) for settings in weight)
    (b / "provenance.json").write_text(json.dumps({"git": {"sha": "1"}, "python": "3.11.7", "started": "x"}))
    found = compared(a, b)
    assert found.settings.values.tolist() == [["regularizer.c.weight", "1", "2", 2]]
    assert found.provenance["key"].tolist() == ["git.sha"]
    assert "regularizer.c.weight (at 2 places)" in text_of(found, 80)


def test_the_tables_fit_a_terminal_and_tell_where_they_cut(write_run: WriteRun, pair: tuple[Path, Path]):
    long = "a very long beginning " * 10
    other = write_run(editor="encore", edits=20, settings={"x": {"path": f"{long} one [red]"}})
    same = write_run(editor="memit", edits=20, settings={"x": {"path": f"{long} two"}})
    found = compared(other, same)
    lines = text_of(found, 80, rows=20).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("x.path")]
    assert "one [red]" in row and "two" in row and "…" in row
    assert sum(line.startswith(("norm/", "edit/", "probe/", "activation/", "text/")) for line in lines) <= 20
    assert any(line.endswith("more: --all shows them") for line in lines)
    every = text_of(found, 200)
    assert "--all" not in every and all(key in every for key in found.differences["key"])


def test_mistakes_have_a_status_of_their_own(pair: tuple[Path, Path], tmp_path: Path, capsys):
    assert main(["compare", str(pair[0]), str(tmp_path)]) == 2
    assert main(["compare", *map(str, pair), "--tolerance=-1"]) == 2
    (pair[1] / "metrics.jsonl").unlink()
    assert main(["compare", *map(str, pair)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all(line.startswith("error: ") for line in told)


def test_runs_without_a_common_number_are_not_equal(pair: tuple[Path, Path]):
    for folder in pair:
        path = folder / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        timed = [
            {key: v for key, v in row.items() if "/" not in key} | {"time/x/seconds": 1.0} for row in rows
        ]
        write_rows(folder, timed)
    found = compared(*pair)
    assert found.metrics == 0 and not found.is_equal
    assert "no metric was measured by both" in text_of(found, 200)


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-1"])
def test_a_tolerance_that_hides_every_difference_is_refused(
    pair: tuple[Path, Path], tolerance: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["compare", *map(str, pair), f"--tolerance={tolerance}"]) == 2
    assert f"--tolerance {float(tolerance)}" in capsys.readouterr().err
