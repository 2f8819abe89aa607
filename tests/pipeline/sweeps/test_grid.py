"""A sweep computes no run twice, composes no run that is done, and continues after a failure."""

import json
import logging
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError, NormscopeError
from pipeline.build import build
from pipeline.config.file_cache import keep_files
from pipeline.config.schema import resolved
from pipeline.runs.layout import folder_of
from pipeline.sweeps import plan
from pipeline.sweeps.grid import Sweep, SweepFailed
from tests.pipeline.sweeping import CONF, context_of

OBJECTIVE = 0.5


class Launcher:
    """A launcher that marks every run as done, but fails those whose overrides hold `failing`."""

    def __init__(self, context, config, failing: str) -> None:
        self.context, self.config, self.failing = context, config, failing
        self.launched: list[list[str]] = []
        self.warmed = 0

    def warm_up(self) -> None:
        self.warmed += 1

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched += map(list, job_overrides)
        return [self._result(list(job)) for job in job_overrides]

    def _result(self, job: list[str]) -> JobReturn:
        result = JobReturn(overrides=job)
        if self.failing in job:
            result.status, result.return_value = JobStatus.FAILED, NormscopeError("there is no such fact")
            return result
        config = self.context.config_loader.load_sweep_config(self.config, job)
        folder = folder_of(Path("outputs"), resolved(config))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"objective": OBJECTIVE}))
        (folder / "DONE").write_text("2026-01-31T12:00:00+00:00")
        result.status, result.return_value = JobStatus.COMPLETED, OBJECTIVE
        return result


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def swept(*arguments: str, failing: str = "") -> tuple[Sweep, Launcher]:
    """A sweep over the arguments, not started, and its launcher."""
    sweep = Sweep(max_batch_size=None, params={})
    sweep._context, sweep._shared = context_of([a for a in arguments if "," not in a])
    launcher = Launcher(sweep._context, sweep._shared, failing)
    sweep._launcher = launcher
    return sweep, launcher


def launched(*arguments: str, failing: str = "") -> list[list[str]]:
    """The overrides of the launched jobs, each without the overrides that all share."""
    sweep, launcher = swept(*arguments, failing=failing)
    try:
        sweep.sweep(list(arguments))
    except SweepFailed:
        assert failing
    return [[text for text in job if text not in arguments] for job in launcher.launched]


def test_a_second_launch_launches_nothing_and_composes_nothing(monkeypatch: pytest.MonkeyPatch):
    assert launched("name=x", "seed=0,1") == [["seed=0"], ["seed=1"]]
    sweep, launcher = swept("name=x", "seed=0,1")
    monkeypatch.setattr(sweep, "_composed", lambda job: pytest.fail("composed again"))
    results = sweep.sweep(["name=x", "seed=0,1"])
    assert not launcher.launched
    assert [result.return_value for result in results] == [OBJECTIVE, OBJECTIVE]


def test_a_launcher_warms_up_once_and_only_if_a_run_is_missing():
    for warmed in (1, 0):
        sweep, launcher = swept("name=x", "seed=0,1")
        sweep.sweep(["name=x", "seed=0,1"])
        assert launcher.warmed == warmed


def test_only_new_runs_are_launched_and_the_plan_keeps_earlier_ones(tmp_path: Path):
    launched("name=x", "seed=0,1")
    assert launched("name=x", "seed=1,2") == [["seed=2"]]
    planned = [job.overrides for job in plan.read(tmp_path / "outputs" / "x")]
    assert planned == [("name=x", f"seed={seed}") for seed in (0, 1, 2)]


def test_launcher_and_tracker_do_not_change_the_run():
    launched("name=x", "tracker=none", "seed=0,1")
    assert launched("name=x", "launcher.threads=2", "seed=0,1") == []


def test_the_same_run_by_other_overrides_is_known_and_launched_once():
    assert launched("name=x", "intervention=none", "editor=rome,memit") == [["editor=rome"]]
    launched("name=y", "seed=3,4")
    assert launched("name=y", "edits=100", "seed=3,4") == []


def test_a_run_whose_folder_is_gone_is_computed_again(tmp_path: Path):
    launched("name=x", "seed=0,1")
    first = plan.read(tmp_path / "outputs" / "x")[0].run
    (tmp_path / "outputs" / "x" / first / "DONE").unlink()
    assert launched("name=x", "seed=0,1") == [["seed=0"]]


def test_resume_never_computes_everything_again_each_time():
    for _ in range(2):
        assert launched("name=x", "resume=never", "seed=0,1") == [["seed=0"], ["seed=1"]]


def test_a_failed_job_is_reported_and_the_others_are_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    sweep, launcher = swept("name=x", "seed=0,1,2", failing="seed=1")
    with caplog.at_level(logging.INFO), pytest.raises(SweepFailed, match="1 of 3 runs failed"):
        sweep.sweep(["name=x", "seed=0,1,2"])
    assert len(launcher.launched) == 3
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert message.startswith("seed=1: there is no such fact (outputs/x/")
    assert launched("name=x", "seed=0,1,2") == [["seed=1"]]


def test_a_job_that_cannot_be_composed_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    sweep, launcher = swept("name=x", "editor=memit,memmit")
    with pytest.raises(SweepFailed, match="1 of 2"):
        sweep.sweep(["name=x", "editor=memit,memmit"])
    assert launcher.launched == [["name=x", "editor=memit"]]
    assert "editor=memmit: In 'config': Could not find 'editor/memmit'" in caplog.text
    assert len(plan.read(tmp_path / "outputs" / "x")) == 1


def test_a_sweep_without_a_finished_run_speaks_of_no_others(tmp_path: Path):
    sweep, _ = swept("name=x", "editor=memmit,mommit")
    with pytest.raises(SweepFailed, match=r"^2 of 2 runs failed, for the reasons above$"):
        sweep.sweep(["name=x", "editor=memmit,mommit"])


def test_a_broken_file_stops_only_the_job_that_reads_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "more" / "editor").mkdir(parents=True)
    (tmp_path / "more" / "editor" / "torn.yaml").write_text("name: torn\nkeys: [1, 2\nother: }")
    path = f"hydra.searchpath=[{tmp_path / 'more'}]"
    sweep, launcher = swept(path, "name=x", "editor=memit,torn")
    with pytest.raises(SweepFailed, match="1 of 2"):
        sweep.sweep(["name=x", "editor=memit,torn"])
    assert launcher.launched == [["name=x", "editor=memit"]]
    assert f"editor=torn: {tmp_path}/more/editor/torn.yaml, line 3 is not valid YAML: " in caplog.text


def test_a_summary_without_its_objective_is_a_failure_with_a_way_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    launched("name=x", "seed=0,1")
    next(tmp_path.glob("outputs/x/*-*/summary.json")).write_text("{}")
    sweep, _ = swept("name=x", "seed=0,1")
    with pytest.raises(SweepFailed, match="1 of 2"):
        sweep.sweep(["name=x", "seed=0,1"])
    assert "summary.json has no objective: delete the folder" in caplog.text


@pytest.mark.parametrize("wrong", ["+regularizer.foo=3", "+regularizer.foo=null", "+regularizer.foo=[a]"])
def test_an_unknown_regularizer_is_a_problem_of_the_checks(composed: Callable[..., DictConfig], wrong: str):
    with pytest.raises(ConfigError, match=r"regularizer\.foo"):
        build(resolved(composed(wrong)))


def test_a_launcher_that_gives_up_is_judged_by_the_folders(monkeypatch: pytest.MonkeyPatch):
    sweep, launcher = swept("name=x", "seed=0,1")
    monkeypatch.setattr(launcher, "launch", lambda jobs, initial_job_idx: _half(launcher, jobs))
    with pytest.raises(SweepFailed, match="1 of 2"):
        sweep.sweep(["name=x", "seed=0,1"])


def _half(launcher: Launcher, jobs: Sequence[Sequence[str]]) -> None:
    launcher._result(list(jobs[0]))
    raise RuntimeError("the queue is gone")


def test_jobs_are_composed_from_the_files_at_the_start_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    monkeypatch.setattr("tests.pipeline.sweeping.CONF", conf)
    sweep, launcher = swept("name=x", "seed=0,1")
    keep_files(sweep._context)
    monkeypatch.setattr(launcher, "launch", lambda jobs, initial_job_idx: _edited(conf, launcher, jobs))
    results = sweep.sweep(["name=x", "seed=0,1"])
    assert [result.return_value for result in results] == [OBJECTIVE, OBJECTIVE]
    copied = pickle.loads(pickle.dumps(sweep._context))  # as a pool sends it
    assert copied.config_loader.load_sweep_config(sweep._shared, ["seed=1"]).edits == 100
    assert launched("name=x", "seed=0,1") == [["seed=0"], ["seed=1"]], "edited files are other runs"


def _edited(conf: Path, launcher: Launcher, jobs: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Edit a file between the first job and the others."""
    first = launcher._result(list(jobs[0]))
    text = (conf / "config.yaml").read_text()
    assert "edits: 100" in text
    (conf / "config.yaml").write_text(text.replace("edits: 100", "edits: 3"))
    return [first, *(launcher._result(list(job)) for job in jobs[1:])]


def test_a_sweep_ends_with_the_command_that_reports_its_runs(caplog: pytest.LogCaptureFixture):
    """Also if some failed, or all were done before; each experiment once."""
    end = "-m analysis report outputs/x outputs/y"
    for failing in ("seed=2", ""):
        with caplog.at_level(logging.INFO):
            launched("name=x,y", "seed=0,1,2", failing=failing)
        assert sum(message.endswith(end) for message in caplog.messages) == 1, caplog.messages
        caplog.clear()


def test_only_runs_that_another_process_computes_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    sweep, launcher = swept("name=x", "seed=0,1")
    monkeypatch.setattr(
        launcher, "launch", lambda jobs, initial_job_idx: [_none(launcher, job) for job in jobs]
    )
    with caplog.at_level(logging.INFO), pytest.raises(SweepFailed, match="1 of 2 runs failed"):
        sweep.sweep(["name=x", "seed=0,1"])
    assert "0 computed, 0 done before, 1 failed, 1 left to other processes" in caplog.text
    assert "analysis report" not in caplog.text, "there is nothing to report yet"
    assert "seed=1: it is not done, and no process computes it" in caplog.text


def _none(launcher: Launcher, job: Sequence[str]) -> JobReturn:
    """No result, as from a locked run; the parent of this test computes seed=0."""
    returned = launcher._result(list(job))
    returned.return_value = None
    for folder in Path("outputs/x").glob("*-*/DONE"):
        folder.unlink()
        beat = {
            "host": socket.gethostname(),
            "pid": os.getppid(),
            "owner": "another",
            "beat": time.time(),
            "parts": [],
            "started": 0,
        }
        if "seed=0" in job:
            (folder.parent / "progress.json").write_text(json.dumps({**beat, "parts": []}))
    return returned


def test_a_plan_holds_no_secret(tmp_path: Path):
    launched("name=x", "+model.api_key=123abc", "seed=0,1")
    text = (tmp_path / "outputs" / "x" / "sweep.json").read_text()
    assert "api_key" in text and "123abc" not in text


def test_an_invocation_depends_on_files_and_their_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a.yaml").write_text("x: ${oc.env:SOME_NUMBER}\n")
    monkeypatch.setenv("SOME_NUMBER", "1")
    first = plan.digest(plan.sources_of([tmp_path]))
    assert plan.digest(plan.sources_of([tmp_path])) == first
    monkeypatch.setenv("SOME_NUMBER", "2")
    second = plan.digest(plan.sources_of([tmp_path]))
    (tmp_path / "a.yaml").write_text("x: ${oc.env:SOME_NUMBER} # changed\n")
    assert len({first, second, plan.digest(plan.sources_of([tmp_path]))}) == 3


def test_a_plan_that_cannot_be_read_counts_as_none(tmp_path: Path):
    (tmp_path / "sweep.json").write_text('{"jobs": [{"run"')
    assert plan.read(tmp_path) == []


def test_pool_is_a_choice_of_the_configuration():
    _, config = context_of(["launcher=pool", "launcher.jobs=3"])
    assert OmegaConf.to_container(config.hydra.launcher, resolve=True) == {
        "_target_": "hydra_plugins.normscope.Pool",
        "jobs": 3,
        "threads": None,
    }
    assert config.hydra.mode.name == "MULTIRUN"
