"""Every command that asks for runs takes the same texts for them (`analysis.selection`)."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

from analysis.__main__ import main as analysis
from pipeline.command_line import COMMANDS
from pipeline.commands import dashboard, keep, ledger, status, upload
from pipeline.runs.layout import point_latest
from tests.fake_runs import write_run

WITHOUT_RUNS = {"build_world", "facts"}
OUT = {"export": ["out=there"], "keep": ["out=there"]}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`outputs/quick` with a run of MEMIT and one of ROME, which is the latest."""
    monkeypatch.chdir(tmp_path)
    for number, editor in enumerate(("memit", "rome")):
        run = write_run(Path("outputs"), editor=editor, name="quick", edits=4)
        named = run.rename(run.with_name(f"{editor}-s0-{number:010x}"))
        summary = json.loads((named / "summary.json").read_text()) | {"run": f"{number:010x}"}
        (named / "summary.json").write_text(json.dumps(summary))
        point_latest(named)
    return Path("outputs/quick")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WITHOUT_RUNS])
@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        (":editor=encore", "no run of outputs/quick has editor=encore: choose editor=memit or editor=rome"),
        ("/e", "no run of outputs/quick begins with e: choose outputs/quick/memit-s0-0000000000 or outputs"),
        (
            "/0",
            "outputs/quick/0 begins the names of 2 runs: choose outputs/quick/memit-s0-0000000000 or outp",
        ),
    ],
)
def test_what_names_no_run_is_a_sentence(
    experiment: Path, command: str, rest: str, sentence: str, capsys: pytest.CaptureFixture[str]
):
    main = importlib.import_module(f"pipeline.commands.{command}").main
    returned = main([f"{experiment}{rest}", *OUT.get(command, [])])
    assert returned and sentence in f"{returned} {capsys.readouterr().err}"
    assert not Path("there").exists()


def test_an_experiment_is_kept_whole_or_not_at_all(experiment: Path):
    kept = Path("kept")
    done = (experiment / "memit-s0-0000000000" / "DONE").rename("DONE")
    assert "memit-s0-0000000000 is not finished" in str(keep.main([str(experiment), f"out={kept}"]))
    assert not kept.exists()
    done.rename(experiment / "memit-s0-0000000000" / "DONE")
    assert keep.main([str(experiment), f"out={kept}"]) == 0
    assert {path.name for path in kept.iterdir()} == {"memit-s0-0000000000", "rome-s0-0000000001"}


@pytest.mark.parametrize("command", ["export", "ledger"])
def test_a_command_for_one_run_names_those_that_are_there(experiment: Path, command: str):
    main = importlib.import_module(f"pipeline.commands.{command}").main
    told = str(main([f"{experiment}:seed=0", *OUT.get(command, [])]))
    assert "seed=0 names 2 runs: choose outputs/quick/memit-s0-0000000000 or outputs/quick/rome" in told
    assert "rome-s0-0000000001 edited no facts" in str(ledger.main([f"{experiment}/latest"]))


@pytest.mark.parametrize("rest", ["/latest", ":editor=rome", ":editor=rome,seed=0", "/rome", "/0000000001"])
def test_one_run_is_shown_kept_and_compared(experiment: Path, rest: str, capsys: pytest.CaptureFixture[str]):
    text = f"{experiment}{rest}"
    assert status.main([text]) == 0
    shown = capsys.readouterr().out
    assert "rome-s0-0000000001" in shown and "memit" not in shown and f"{text}: 1 run: 1 done" in shown
    assert keep.main([text, "out=kept"]) == 0
    assert capsys.readouterr().out == "kept/rome-s0-0000000001\n"
    assert analysis(["compare", text, "kept/rome"]) == 0
    assert "B: kept/rome-s0-0000000001" in capsys.readouterr().out


def test_several_runs_are_shown_and_kept(experiment: Path, capsys: pytest.CaptureFixture[str]):
    assert status.main([f"{experiment}:seed=0", str(experiment)]) == 0
    assert capsys.readouterr().out.count("2 runs: 2 done") == 2
    assert keep.main([f"{experiment}:seed=0", f"{experiment}/latest", "out=kept"]) == 0
    assert {path.name for path in Path("kept").iterdir()} == {"memit-s0-0000000000", "rome-s0-0000000001"}


def test_a_view_of_selected_runs_is_written_beside_them(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(dashboard, "logged_in", lambda: False)
    monkeypatch.setattr(dashboard, "workspace", lambda sections, *_, **__: sections)
    monkeypatch.setattr(dashboard, "_as_json", lambda view: json.dumps([*view]))
    assert dashboard.main([f"{experiment}:editor=rome"]) == 0
    assert (experiment / "dashboard.json").is_file() and str(experiment) in capsys.readouterr().out


def test_only_selected_runs_are_uploaded(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(upload.Upload, "upload", lambda self, run: [run.fingerprint])
    assert upload.main([f"{experiment}:editor=rome", "--mode", "offline"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{experiment}/rome-s0-0000000001: 0000000001"
    shutil.rmtree(experiment / "memit-s0-0000000000")
    assert upload.main([str(experiment), "--mode", "offline"]) == 0
    assert capsys.readouterr().out.count("0000000001: 0000000001") == 1
