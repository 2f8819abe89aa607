"""The seal of a finished run: every change of a file that the run wrote is noticed by what reads the file."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.results.collection import collect
from analysis.results.comparison import comparison, read_one
from analysis.results.run_folder import RunFolder
from analysis.results.seal import Seal, written
from editors.errors import DataError
from tests.fake_runs import WriteRun, write_rows

RATIO = "norm/frobenius_ratio/edited"


def sealed(folder: Path) -> Path:
    """The folder, with a seal of its present files."""
    (folder / "DONE").write_text(Seal.of(folder).text("2026-01-31T12:00:00+00:00"))
    return folder


def stored(name: str = "a", count: str = "1", digest: str = "0" * 64) -> str:
    """The content of a `DONE` with one file."""
    return f'{{"files": {{"{name}": {{"bytes": {count}, "sha256": "{digest}"}}}}}}'


@pytest.fixture
def run(write_run: WriteRun) -> Path:
    """A sealed run of ten edits."""
    return sealed(write_run(editor="memit", edits=10))


def lose_two_rows(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-2]))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_seal_holds_size_and_checksum_of_the_content(tmp_path: Path):
    (tmp_path / "metrics.jsonl.gz").write_bytes(gzip.compress(b"abc"))
    (tmp_path / "updates").mkdir()
    (tmp_path / "updates" / "0-1.safetensors").touch()
    (tmp_path / "uploaded.json").touch()
    (tmp_path / "progress.json").touch()
    stored = json.loads(Seal.of(tmp_path).text("now"))
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert stored == {
        "finished": "now",
        "files": {
            "metrics.jsonl": {"bytes": 3, "sha256": abc},
            "updates/0-1.safetensors": {"bytes": 0, "sha256": empty},
        },
    }


def test_compressing_the_rows_changes_nothing(run: Path):
    rows = RunFolder(run).rows()
    path = run / "metrics.jsonl"
    path.with_name("metrics.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert RunFolder(run).rows() == rows and not collect(run.parent).notes[1:]


def test_lost_rows_are_told_by_every_reader_and_used_by_none(
    run: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
):
    whole = sealed(write_run(editor="rome", edits=10))
    lose_two_rows(run)
    collection = collect(run.parent)
    assert collection.runs["run"].tolist() == [whole.name]
    (left_out,) = collection.unfinished
    sizes = r"metrics\.jsonl has \d+ bytes, but \d+ were written"
    assert left_out.status == "unreadable" and "resume=never" in left_out.sentence
    for read in (lambda: RunFolder(run).rows(), lambda: read_one(run)):
        with pytest.raises(DataError, match=sizes):
            read()
    assert main(["compare", str(run), str(whole)]) == 2
    assert "was damaged after the run was finished" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink, lambda path: path.write_text("x")])
def test_a_changed_file_excludes_the_run(run: Path, name: str, damage: Callable[[Path], None]):
    before = (run / name).read_bytes()
    damage(run / name)
    folder = RunFolder(run)
    readers = {
        "config.yaml": folder.config,
        "provenance.json": folder.provenance,
        "summary.json": folder.final_summary,
        "metrics.jsonl": folder.rows,
    }
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        readers[name]()
    with pytest.raises(DataError, match="holds no finished run"):
        collect(run.parent)
    (run / name).write_bytes(before)
    assert len(collect(run.parent).runs) == 1


def test_a_table_that_the_run_did_not_write_is_refused(run: Path):
    RunFolder(run).tables()
    (run / "records.parquet").write_bytes(b"PAR1 of another run")
    with pytest.raises(DataError, match=r"records\.parquet was not written by the run"):
        RunFolder(run).tables()


@pytest.mark.parametrize(
    "text",
    [
        '{"finished": "now"',
        "x" * 100,
        "a\nb",
        '{"files": [1]}',
        '{"files": {"a": 1}}',
        "",
        " \n",
        "garbage",
        "[1]",
        "2026",
        "null",
        "[" * 200_000,
        '{"files": {"a": {"bytes": 1}}}',
        stored(count="1e400"),
        stored(count='"3"'),
        stored(count="-1"),
        stored(digest="xyz"),
        stored("\\ud800"),
        stored("a\\u0000"),
        stored("../a"),
        stored("a/../../b"),
        stored("/etc/passwd"),
        stored(""),
        stored("a" * 300),
    ],
    ids=lambda text: text[:30],
)
def test_a_damaged_seal_is_no_missing_one(run: Path, text: str):
    (run / "DONE").write_text(text)
    with pytest.raises(DataError, match="DONE is damaged"):
        RunFolder(run).rows()
    with pytest.raises(DataError, match="DONE is damaged"):
        collect(run.parent)


def test_a_seal_of_other_files_is_undamaged(run: Path):
    (run / "DONE").write_text(stored("updates/é.safetensors"))
    with pytest.raises(DataError, match=r"was damaged after the run was finished: config\.yaml"):
        RunFolder(run).config()


def test_a_run_from_before_there_were_seals_is_read_with_a_note(run: Path):
    (run / "DONE").write_text("2026-11-27T16:00:20+00:00\n")
    (note,) = collect(run.parent).notes
    assert note.startswith("The files of 1 run(s) could not be verified")
    assert "A: DONE holds no digests: nothing was verified" in comparison(read_one(run), read_one(run)).notes


def test_rows_of_an_older_run_end_with_the_numbers_of_its_summary(write_run: WriteRun):
    run = write_run(editor="memit", edits=10)
    rows, _ = RunFolder(run).rows()
    write_rows(run, [*rows[:-1], {**rows[-1], RATIO: float("nan"), "time/step/seconds": 2}])
    RunFolder(run).rows()
    lose_two_rows(run)
    with pytest.raises(DataError, match=r"do not end with the numbers of its summary\.json, such as"):
        RunFolder(run).rows()
    (run / "DONE").unlink()
    assert len(RunFolder(run).rows()[0]) == len(rows) - 2, "an unfinished run has no last numbers yet"


@pytest.mark.parametrize("garbage", ["\x00" * 1000, "[1]\n" * 20, '{"edits": "x", "a/b/c": 1}\n'])
def test_a_finished_run_whose_rows_are_garbage_gets_a_sentence(write_run: WriteRun, garbage: str, capsys):
    run = write_run(editor="memit", edits=10)
    (run / "metrics.jsonl").write_text(garbage)
    for summary in (None, json.loads((run / "summary.json").read_text()) | {"metrics": {}}):
        if summary is not None:
            (run / "summary.json").write_text(json.dumps(summary))
        assert main(["report", str(run.parent)]) == 2
        assert main(["compare", str(run), str(run)]) == 2
        assert capsys.readouterr().err.count("\n") == 2


def test_unfinished_files_are_not_covered(tmp_path: Path):
    for name in ("state/0/checkpoint-1/weights.safetensors", ".part-summary.json-abc/summary.json", ".lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert written(tmp_path) == []
