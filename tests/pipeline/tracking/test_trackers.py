"""Trackers: their data can be read back, runs do not mix, nothing stays open."""

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from analysis.metrics import areas, metrics
from editors.errors import ConfigError
from pipeline.build import build
from pipeline.config.fingerprint import Config
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import resolved
from pipeline.launch import launch
from pipeline.runs.folder import RunDir, RunInfo
from pipeline.runs.signals import Interrupted
from pipeline.tracking.base import Position, Rows, Status, Tracker, TrackerList, tracking
from pipeline.tracking.jsonl import Jsonl
from pipeline.tracking.wandb_config import flat
from pipeline.tracking.wandb_tracker import OUTCOME, Wandb
from tests.paths import ROOT
from tests.pipeline.offline import exit_code, rows_of, wandb_records, wandb_summary

CONFIG: dict[str, object] = {
    "name": "demo",
    "batch_size": 2,
    "editor": {"name": "memit", "steps": 20},
    "intervention": {"name": "knowledge_edit"},
    "layers": {"edit": [1, 2]},
}


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of the person who runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def run_info(folder: Path, fingerprint: str = "0123456789", name: str = "demo") -> RunInfo:
    folder.mkdir(parents=True, exist_ok=True)
    return RunInfo(name=name, fingerprint=fingerprint, folder=folder)


def test_an_offline_run_holds_all_rows_over_edits(tmp_path: Path) -> None:
    tracker = Wandb(project="p", tags=("a",))
    with tracking(tracker, CONFIG, run_info(tmp_path)):
        for edits in range(5):
            tracker.log(Position(edits=edits), {"norm/delta/mlp_down.01": edits / 4})
        tracker.table("efficacy", [{"id": "a", "success": 1}, {"id": 2, "note": "<b>"}])
    records = wandb_records(tmp_path)
    rows = rows_of(records)
    assert rows[:5] == [{"edits": edits, "norm/delta/mlp_down.01": edits / 4} for edits in range(5)]
    assert rows[5]["tables/efficacy._type"] == "table-file"
    assert rows[5]["tables/efficacy.nrows"] == 2
    metrics = [record["metric"] for record in records if "metric" in record]
    assert [metric["name"] for metric in metrics if "step_metric" not in metric] == ["edits"]
    assert [metric["step_metric"] for metric in metrics if metric.get("glob_name") == "*"] == ["edits"]
    (opened,) = [record["run"] for record in records if "run" in record]
    assert (opened["run_group"], opened["job_type"], opened["tags"]) == ("demo", "memit", ["a"])
    assert opened["run_id"] == tracker.id and opened["display_name"] == "memit-0123456789"
    assert opened["config"]["update"]["editor/name"] == "memit"
    assert opened["config"]["update"]["layers/edit"] == [1, 2]
    assert exit_code(records) == 0


def test_alerts_and_figures_are_in_the_run(tmp_path: Path) -> None:
    """Figures are drawn only for a tracker that shows them."""
    picture = tmp_path / "norms.png"
    Image.new("RGB", (3, 2)).save(picture)
    calls: list[str] = []

    def draw() -> dict[str, Path]:
        calls.append("once")
        return {"norms": picture}

    with tracking(tracker := Wandb(), CONFIG, run_info(tmp_path)):
        tracker.alert("norm_growth", "after 3 edits it is twice its norm")
        tracker.pictures(draw)
    records = wandb_records(tmp_path)
    (alert,) = [record["alert"] for record in records if "alert" in record]
    assert (alert["title"], alert["text"]) == ("norm_growth", "after 3 edits it is twice its norm")
    (row,) = [row for row in rows_of(records) if "figures/norms._type" in row]
    assert row["figures/norms._type"] == "image-file"
    silent = Wandb(mode="disabled")
    with tracking(TrackerList(trackers=[silent]), CONFIG, run_info(tmp_path / "disabled")):
        silent.pictures(draw)
    assert calls == ["once"]


def test_two_runs_in_one_process_do_not_mix(tmp_path: Path) -> None:
    first, second = Wandb(tags=["x"]), Wandb()
    first.start(CONFIG, run_info(tmp_path / "1", "1" * 10))
    second.start({"editor": {"name": "rome"}}, run_info(tmp_path / "2", "2" * 10, name="other"))
    first.log(Position(edits=0), {"norm/a": 1.0})
    second.log(Position(edits=0), {"norm/a": 2.0})
    first.finish("done")
    second.log(Position(edits=1), {"norm/a": 3.0})
    second.finish("done")
    one, two = wandb_records(tmp_path / "1"), wandb_records(tmp_path / "2")
    assert rows_of(one) == [{"edits": 0, "norm/a": 1}]
    assert rows_of(two) == [{"edits": 0, "norm/a": 2}, {"edits": 1, "norm/a": 3}]
    (opened,) = [record["run"] for record in two if "run" in record]
    assert (opened["run_group"], opened["job_type"], opened.get("tags")) == ("other", "rome", None)


@pytest.mark.parametrize("error", [RuntimeError("it broke"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_ends_a_run_closes_it_as_failed_with_its_tables(tmp_path: Path, error: BaseException):
    import wandb

    tracker = Wandb()
    with pytest.raises(type(error)), tracking(tracker, CONFIG, run_info(tmp_path)):
        tracker.log(Position(edits=0), {"norm/a": 1.0})
        tracker.table("edits", [{"id": "a"}])
        raise error
    records = wandb_records(tmp_path)
    assert exit_code(records) == 1
    first, last = rows_of(records)
    assert first == {"edits": 0, "norm/a": 1}
    assert last["tables/edits._type"] == "table-file"
    assert wandb.run is None
    tracker.log(Position(edits=1), {"norm/a": 1.0})  # closed: has no effect
    tracker.finish("done")


def test_a_resumed_run_has_the_rows_of_its_first_attempt(
    composed: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def last_of(self: Wandb, position: Position, metrics: Mapping[str, float]) -> None:
        log(self, position, metrics)
        if position.edits == 3:
            raise Interrupted(signal.SIGTERM)

    choices = (
        "tracker=wandb",
        "tracker.mode=offline",
        "stage=[norms]",
        "edits=4",
        "intervention.save_every=1",
    )
    log = Wandb.log
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Wandb, "log", last_of)
        launch(composed(*choices), tmp_path)
    monkeypatch.setattr(Wandb, "pictures", lambda *_: None)
    with caplog.at_level("INFO"):
        launch(composed(*choices), tmp_path)
    assert "resuming from" in caplog.text
    (folder,) = tmp_path.glob("test/*-*")
    records = wandb_records(folder)  # one folder: that of the first attempt is removed
    rows = rows_of(records)
    assert [row["edits"] for row in rows if "norm/frobenius_ratio/edited" in row] == [0, 1, 2, 3, 4]
    assert [row["tables/edits.nrows"] for row in rows if "tables/edits.nrows" in row] == [4]
    assert exit_code(records) == 0


def test_the_id_is_stable_over_restarts_and_differs_between_experiments(tmp_path: Path) -> None:
    def identity(name: str, fingerprint: str) -> str:
        tracker = Wandb(mode="disabled")
        with tracking(tracker, CONFIG, run_info(tmp_path, fingerprint, name)):
            return tracker.id

    assert identity("a", "0") == identity("a", "0")
    assert len({identity("a", "0"), identity("b", "0"), identity("a", "1")}) == 3


def test_nothing_is_printed_and_no_secret_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["normscope", "password=do-not-write-me"])
    monkeypatch.setenv("HF_TOKEN", "do-not-write-me")
    config = CONFIG | {"tracker": {"api_key": "do-not-write-me", "mode": "offline"}}
    with tracking(Wandb(mode="offline"), config, run_info(tmp_path)):
        pass
    assert capfd.readouterr() == ("", "")
    kinds = {kind for record in wandb_records(tmp_path) for kind in record}
    assert not kinds & {"environment", "output", "output_raw"}, "neither the command line nor the console"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"do-not-write-me" not in path.read_bytes(), path


@pytest.mark.parametrize(("mode", "variable"), [("offline", None), ("auto", None), ("auto", "offline")])
def test_without_a_login_a_run_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)  # WANDB_MODE goes before the login
    with tracking(Wandb(mode=mode), CONFIG, run_info(tmp_path)):  # pyright: ignore[reportArgumentType]
        pass
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


@pytest.mark.parametrize("place", ["environment", "netrc", "netrc of another server"])
def test_a_login_makes_auto_go_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    import wandb
    from wandb.errors import CommError

    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    else:
        machine = "api.wandb.ai" if place == "netrc" else "example.org"
        (tmp_path / "netrc").write_text(f"machine {machine} login user password {'a' * 40}\n")
        (tmp_path / "netrc").chmod(0o600)
    modes: list[object] = []

    def refuse(**settings: object) -> None:
        modes.append(settings["mode"])
        raise CommError("no network here")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match="no network here"):
        Wandb().start(CONFIG, run_info(tmp_path))
    assert modes == ["offline" if "another" in place else "online"]


def test_online_without_a_login_gets_one_sentence(tmp_path: Path) -> None:
    tracker = Wandb(mode="online")
    with (
        pytest.raises(ConfigError, match=r"wandb login.*tracker\.mode=offline"),
        tracking(tracker, CONFIG, run_info(tmp_path)),
    ):
        pass


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracker\.mode=dryrun, .*auto, online, offline, disabled"):
        Wandb(mode="dryrun")  # pyright: ignore[reportArgumentType]


def test_the_jsonl_archive_says_where_every_row_belongs(tmp_path: Path) -> None:
    with RunDir(root=tmp_path, config=CONFIG) as run:
        archive = Jsonl(run=run)
        with tracking(archive, CONFIG, run.info):
            for step, edits in enumerate((0, 2, 4, 5)):
                archive.log(Position(step=step, edits=edits), {"norm/a": 1.0})
            archive.table("efficacy", [{"id": "a"}])
        run.finish(objective=None)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["edits"]) for row in rows] == [(0, 0), (1, 2), (2, 4), (3, 5)]
    assert {(row["part"], row["unit"]) for row in rows} == {(0, "edits")}
    assert (run.folder / "efficacy.parquet").exists()
    assert archive.id == run.info.fingerprint


class Recorder(Tracker):
    """A tracker that records the calls, and may refuse to close."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.seen: list[str] = []
        self.stubborn = stubborn

    @property
    def id(self) -> str:
        return "r"

    def start(self, config: Config, run: RunInfo) -> None:
        self.seen.append("start")

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        self.seen.append(f"log {position.count}")

    def table(self, name: str, rows: Rows) -> None:
        self.seen.append(f"table {name}")

    def finish(self, status: Status) -> None:
        self.seen.append(status)
        if self.stubborn:
            raise OSError("will not close")


def test_all_trackers_of_a_list_are_called_and_closed(tmp_path: Path) -> None:
    trackers = [Recorder(), Recorder(stubborn=True), Recorder()]
    with (
        pytest.raises(OSError, match="will not close"),
        tracking(TrackerList(trackers=trackers), {}, run_info(tmp_path)),
    ):
        TrackerList(trackers=trackers).log(Position(edits=3), {})
        TrackerList(trackers=trackers).table("t", [])
    assert [tracker.seen for tracker in trackers] == [["start", "log 3", "table t", "done"]] * 3
    assert TrackerList(trackers=trackers).id == "r,r,r"


def test_a_tracker_that_fails_to_close_does_not_hide_the_error(tmp_path: Path) -> None:
    stubborn = TrackerList(trackers=[Recorder(stubborn=True)])
    with pytest.raises(KeyboardInterrupt), tracking(stubborn, {}, run_info(tmp_path)):
        raise KeyboardInterrupt


def test_the_agent_of_a_sweep_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an agent of a sweep, the run has the agent's id and project."""
    import wandb

    wandb.teardown()  # an agent starts a process for each run, which reads the environment once
    with monkeypatch.context() as environment:
        for name, value in (("SWEEP_ID", "s1"), ("RUN_ID", "r1"), ("PROJECT", "agents")):
            environment.setenv(f"WANDB_{name}", value)
        with tracking(tracker := Wandb(mode="offline"), CONFIG, run_info(tmp_path)):
            pass
        wandb.teardown()
    (opened,) = [record["run"] for record in wandb_records(tmp_path) if "run" in record]
    assert (opened["run_id"], opened["sweep_id"], opened["project"]) == ("r1", "s1", "agents")
    assert tracker.id == "r1"


@pytest.mark.parametrize("pick", [0, -1])
def test_the_sweep_of_the_documentation_calls_the_entry_point(pick: int) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())
    assert sweep["metric"]["name"] in OUTCOME
    ends = {
        name: spec.get("values") or [spec.get(end, spec.get("value")) for end in ("min", "max")]
        for name, spec in sweep["parameters"].items()
    }
    args = {"args": {name: {"value": values[pick]} for name, values in ends.items()}}
    overrides = create_sweep_command_args(args)["args_no_hyphens"]
    assert sweep["command"][2:] == ["-m", "pipeline", "${args_no_hyphens}"]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = resolved(compose("config", overrides))
    assert plain["editor"]["preservation_weight"] == ends["editor.preservation_weight"][pick]
    assert plain["layers"]["edit"] and plain["seed"] == ends["seed"][pick]
    build(plain)


def test_runs_are_grouped_by_short_keys_and_say_which_code_computed_them(tmp_path: Path) -> None:
    config = CONFIG | {
        "layers": {"edit": [5, 1, 2, 3]},
        "regularizer": {"rect": {"share": 0.2}, "mpes": {}},
        "model": {"name": "tiny"},
        "seed": 7,
    }
    code = {"git": {"commit": "abc", "dirty": True}, "packages": {"torch": "2"}, "host": "h", "command": "c"}
    info = run_info(tmp_path)
    (tmp_path / "provenance.json").write_text(json.dumps(code))
    with tracking(Wandb(), config, info):
        pass
    config = wandb_summary(tmp_path)["config"]
    short = {"editor": "memit", "model": "tiny", "layers": "1-3,5", "regularizers": "mpes, rect", "seed": 7}
    assert config | short | {"intervention": "knowledge_edit", "data": "none"} == config
    assert config["regularizer/rect/share"] == 0.2
    assert {key: value for key, value in config.items() if key.startswith("provenance/")} == {
        "provenance/git/commit": "abc",
        "provenance/git/dirty": True,
        "provenance/packages/torch": "2",
    }, "neither the machine nor the command line"


def test_the_summary_of_a_metric_suits_it_and_the_objective(tmp_path: Path) -> None:
    info = run_info(tmp_path)
    tracker = Wandb()
    with tracking(tracker, CONFIG, info):
        for edits, value in enumerate((1.0, 4.0, 2.0)):
            keys = (
                "norm/spectral/mlp_down.01",
                "edit/score/seen",
                "probe/accuracy/mean",
                "activation/cosine/a",
            )
            tracker.log(Position(edits=edits), dict.fromkeys(keys, value))
        (tmp_path / "summary.json").write_text('{"objective": 0.5, "alarms": []}')
    summary = wandb_summary(tmp_path)["summary"]
    assert summary["norm/spectral/mlp_down.01"] == {"last": 2, "max": 4}
    assert summary["edit/score/seen"] == {"last": 2, "max": 4}
    assert summary["probe/accuracy/mean"] == {"last": 2, "min": 1}
    assert (summary["activation/cosine/a"], summary["objective"], summary["edits"]) == (2, 0.5, 2)


def test_summaries_are_those_of_w_and_b() -> None:
    summaries = {metric.summary for metric in metrics()} | {area.summary for area in areas().values()}
    assert {end for summary in summaries if summary for end in summary.split(",")} == {
        "last",
        "min",
        "max",
        "mean",
    }


@pytest.mark.parametrize("sampled", [True, False])
def test_the_machine_is_sampled_unless_switched_off(tmp_path: Path, sampled: bool) -> None:
    with tracking(Wandb(system_metrics=sampled), CONFIG, run_info(tmp_path)):
        time.sleep(0.5)  # the first sample is taken at once
    assert any("stats" in record for record in wandb_records(tmp_path)) == sampled


def test_the_flat_configuration_keeps_leaves_and_drops_secrets() -> None:
    nested = {
        "a": {"b": 1, "c": {"d": [1]}, "e": {}},
        "api_key": "x",
        "f": {"hf_token": "x"},
        "tokenizer": "t",
        "openai_key": {"of": "x"},
        "setup": ["export HF_TOKEN=x", "https://u:x@host"],
    }
    left = {"setup": ["export HF_TOKEN=***", "https://***@host"]}
    assert flat(nested) == {"a/b": 1, "a/c/d": [1], "a/e": {}, "tokenizer": "t"} | left


@pytest.mark.parametrize(("name", "kind"), [("wandb", Wandb), ("none", TrackerList)])
def test_every_tracker_choice_builds_its_tracker(name: str, kind: type) -> None:
    config = yaml.safe_load((ROOT / "conf" / "tracker" / f"{name}.yaml").read_text())
    assert isinstance(instantiate(config), kind)
