"""Dashboards: a view has exactly the metrics that the runs have measured."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.metrics import dashboard
from analysis.results.run_folder import RunFolder
from pipeline.commands.dashboard import OTHERS as REST, main, plots

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces' own

EDITS = ("edit/score/seen", "edit/score/first50", "edit/retention/0010", "edit/retention/0020")
NORMS = ("norm/delta/mlp_down.01", "norm/delta/mlp_down.11", "norm/frobenius_ratio/edited")
OTHERS = ("activation/norm/block.00", "probe/accuracy/00-01", "probe/accuracy/00-02", "probe/accuracy/mean")
LAST = ("downstream/mean/acc", "text/loss/held_out", "alarm/norm_growth/at", "time/step/seconds",
        "logit/cosine/mean", "trace/total/mean")  # fmt: skip
TRAINED = ("train/loss/step", "lora/norm_a/attn_q.00", "norm/frobenius_ratio/edited")


def write_run(folder: Path, unit: str, keys: tuple[str, ...], parts: int = 0) -> None:
    folder.mkdir(parents=True)
    intervention = {"name": "cpt" if unit == "steps" else "knowledge_edit", "parts": [{}] * parts}
    config = {"name": "demo", "editor": {"name": "memit"}, "intervention": intervention}
    (folder / "config.yaml").write_text(json.dumps(config))
    rows = [
        {"part": 0, "unit": unit, "step": n, "edits": n, "steps": n} | dict.fromkeys(keys, 0.5)
        for n in (0, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Edits, a training and a sequence of both."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write_run(tmp_path / "demo" / "1", "edits", EDITS + NORMS + OTHERS + LAST)
    write_run(tmp_path / "demo" / "2", "steps", TRAINED)
    write_run(tmp_path / "demo" / "3", "edits", ("edit/score/seen",), parts=2)
    return tmp_path / "demo"


def panels(spec: dict) -> Iterator[tuple[str, str | None, list[str]]]:
    """Section, x-axis and keys of every panel of a view."""
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        assert section["panels"], f"{section['name']} is empty"
        for panel in section["panels"]:
            yield section["name"], panel["config"].get("xAxis"), panel["config"]["metrics"]


def test_the_view_shows_every_metric_that_the_runs_have_and_no_other(
    experiment: Path, capsys: pytest.CaptureFixture[str]
):
    from wandb_workspaces.workspaces import internal

    assert main([str(experiment)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(str(experiment / "dashboard.json")) and "wandb login" in output
    text = (experiment / "dashboard.json").read_text()
    assert internal.View.model_validate_json(text).display_name == "demo"
    content = list(panels(json.loads(text)))
    assert {key for _, _, keys in content for key in keys} == {*EDITS, *NORMS, *OTHERS, *LAST, *TRAINED}
    assert [*dashboard(), REST] == list(dict.fromkeys(section for section, _, _ in content))
    assert {axis for section, axis, _ in content if section != "Alarms"} == {"edits", "steps", "step"}
    assert ("Training", "steps", ["train/loss/step"]) in content
    assert {axis for _, axis, keys in content if keys == ["edit/score/seen"]} == {"edits", "step"}


def test_blocks_share_a_panel_and_the_score_comes_first(experiment: Path):
    sections = plots([RunFolder(experiment / "1")])
    titles = [plot.title for plot in sections["Edits"]]
    assert titles == ["edit/score/seen", "edit/retention", "edit/score/first50"]
    keys = {plot.title: plot.keys for plot in sections["Norms"]}
    assert keys["norm/delta/mlp_down"] == ("norm/delta/mlp_down.01", "norm/delta/mlp_down.11")
    assert [plot.title for plot in sections["Probes"]] == ["probe/accuracy/mean", "probe/accuracy"]


def test_runs_of_the_experiment_alone_are_grouped_by_editor(experiment: Path, tmp_path: Path):
    assert (
        main([str(experiment), "--to", str(tmp_path / "view.json"), "--project", "p", "--entity", "e"]) == 0
    )
    view = json.loads((tmp_path / "view.json").read_text())
    assert (view["project"], view["entity"]) == ("p", "e")
    (runs,) = view["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["editor.value", "intervention.value"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"]["name"], only["op"], only["value"]) == ("group", "IN", ["demo"])


def test_with_a_login_the_view_is_saved(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from wandb_workspaces import workspaces as ws

    saved: list[ws.Workspace] = []

    def save(self: ws.Workspace) -> ws.Workspace:
        saved.append(self)
        self._internal_name = "view"
        return self

    monkeypatch.setattr(ws.Workspace, "save", save)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.example/e/p")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert main([str(experiment), "--entity", "e"]) == 0
    assert capsys.readouterr().out == "https://wandb.example/e/p\n"
    assert (saved[0].project, saved[0].entity, len(saved)) == ("normscope", "e", 1)
    assert not (experiment / "dashboard.json").exists()


def test_an_experiment_without_numbers_has_no_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "demo" / "1", "edits", ())
    assert main([str(tmp_path / "demo")]) == 1
    assert "no numbers yet" in capsys.readouterr().err
