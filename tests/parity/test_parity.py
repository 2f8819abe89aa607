"""The recorded cases of this folder, always; those of the published implementations, where they are."""

import json
from pathlib import Path

import pytest

from tests.parity.__main__ import main
from tests.parity.cases import Case, find_cases
from tests.parity.compare import compare

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "golden"
RECORDED = [case for folder in sorted((HERE / "recorded").iterdir()) for case in find_cases(folder)]
OURS = ("rome", "memit", "encore", "alphaedit", "pmet", "mend")


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case.folder.name}-{case.method}-{case.name}")
def test_a_recorded_case_is_met(case: Case):
    row = compare(case)
    assert row["result"] == "pass", row


def test_a_wrong_editor_would_fail(tmp_path: Path):
    original = RECORDED[0]
    changed = original.info | {"hparams": original.hparams | {"v_lr": 0.3}}
    path = original.path.with_name("changed.json")
    case = Case(original.folder, path)
    case.__dict__["info"], case.__dict__["tensors"] = changed, original.tensors
    assert compare(case)["result"] == "fail"


def test_the_command_prints_one_json_line_a_case(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    folder = HERE / "recorded" / "llama"
    monkeypatch.setattr("sys.argv", ["parity", str(folder), "--method", "memit"])
    assert main() == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [
        {"method", "case", "precision", "targets", "deltas", "result"} for _ in rows
    ]
    assert len(rows) == 2


@pytest.mark.shared
@pytest.mark.parametrize("method", OURS)
def test_the_published_implementation_is_met(method: str):
    if not SHARED.is_dir():
        pytest.skip(f"no recorded outputs of the published implementations in {SHARED}")
    failed = [row for case in find_cases(SHARED, method) if (row := compare(case))["result"] != "pass"]
    assert not failed
