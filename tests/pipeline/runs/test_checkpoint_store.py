"""Progress that no run writes breaks a checkpoint; a run that cannot be resumed is marked as failed."""

import json
from pathlib import Path

import pytest

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.commands import status
from pipeline.runs import checkpoint_store as states
from pipeline.runs.folder import RunDir
from tests.pipeline.runs.test_ownership import ROW, config


class Cut(BaseException):
    """The end of a process."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an interrupted run with one checkpoint."""
    with pytest.raises(Cut), RunDir(root=tmp_path, config=config()) as run:
        run.append(ROW)
        run.save(states.new_checkpoint(run.folder / "state" / "0", 1), {"edits": 1})
        raise Cut
    return run.folder


def change(folder: Path, **fields: object) -> None:
    """Give `run.json` other fields and the checksum that belongs to them."""
    path = folder / "state" / "0" / "checkpoint-1" / "run.json"
    content = json.loads(path.read_text()) | fields
    content.pop("checksum")
    path.write_text(json.dumps({**content, "checksum": states._checksum_of(content)}))


def test_an_undamaged_checkpoint_is_resumed(folder: Path, tmp_path: Path):
    change(folder)
    with RunDir(root=tmp_path, config=config()) as run:
        assert run.saved is not None and run.saved.state == {"edits": 1}
        run.finish(objective=1.0)


def test_numbers_that_are_not_finite_are_resumed_as_they_were(tmp_path: Path):
    nan, inf = float("nan"), float("inf")
    with pytest.raises(Cut), RunDir(root=tmp_path, config=config()) as run:
        run.append(ROW | {"a/b": nan, "a/c": inf})
        run.save(
            states.new_checkpoint(run.folder / "state" / "0", 1), {"first": [nan, -inf], "text": "\ud800"}
        )
        raise Cut
    with RunDir(root=tmp_path, config=config()) as run:
        assert run.saved is not None
        assert str(run.saved.state) == "{'first': [nan, -inf], 'text': '\\ud800'}"
        assert str(run.saved.last["a/b"]) == "nan" and run.saved.last["a/c"] == inf
        run.finish(objective=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "7"), ("size", None), ("size", 7.5), ("size", -1), ("size", True), ("run", 1),
        ("rows", None), ("seconds", "1"), ("seconds", float("inf")), ("last", []), ("last", {"a/b/c": "1"}),
        ("state", None), ("code", {"torch": 1}), ("inputs", []),
        ("files", {"a": None}), ("files", {"a\0b": "0"}),
        ("files", {"\ud800": "0"}), ("unknown", 1),
    ],
)  # fmt: skip
def test_a_field_of_another_type_makes_a_checkpoint_a_broken_one(
    folder: Path, tmp_path: Path, field: str, value: object
):
    change(folder, **{field: value})
    match = r"checkpoint-1 cannot be used \(.*there is no older one that can: resume=never"
    with pytest.raises(ConfigError, match=match), RunDir(root=tmp_path, config=config()):
        pass
    assert (folder / "metrics.jsonl").is_file() and (folder / "state").is_dir()


def test_a_run_that_cannot_be_resumed_is_failed_until_it_is_computed_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert RunFolder(folder).state == "unfinished"
    change(folder, size=None)
    with pytest.raises(ConfigError) as refusal, RunDir(root=tmp_path, config=config()):
        pass
    assert RunFolder(folder).state == "failed" and RunFolder(folder).failure in str(refusal.value)
    assert "resume=never computes the run again" in RunFolder(folder).failure
    assert not (folder / "progress.json").exists()
    status.main([str(folder.parent)])
    output = " ".join(capsys.readouterr().out.split())
    assert "1 failed" in output and "cannot be used" in output
    with RunDir(root=tmp_path, config=config(resume="never")) as run:
        assert run.folder == folder and run.saved is None and not (folder / "FAILED").exists()
        run.append(ROW)
        run.finish(objective=1.0)
    assert RunFolder(folder).state == "done"


def test_a_run_of_other_code_is_failed_until_it_is_forced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(states, "code_versions", lambda: {"torch": "9.9"})
    with pytest.raises(ConfigError, match="saved by other code"), RunDir(root=tmp_path, config=config()):
        pass
    assert RunFolder(folder).state == "failed" and "resume=force continues" in RunFolder(folder).failure
    with RunDir(root=tmp_path, config=config(resume="force")) as run:
        assert run.saved is not None and not (folder / "FAILED").exists()
        run.append(ROW)
        run.finish(objective=1.0)
    assert RunFolder(folder).state == "done" and len(RunFolder(folder).rows()[0]) == 2
