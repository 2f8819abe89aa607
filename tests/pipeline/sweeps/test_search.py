"""A search: its trials are runs, it goes on where it was left, and mistakes are sentences."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from analysis.results.quiet_optuna import quiet_optuna
from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved
from pipeline.runs import signals as asked
from pipeline.runs.signals import JobLeft
from tests.pipeline.test_cli import ROOT, run

with quiet_optuna():
    optuna = pytest.importorskip("optuna")
    from pipeline.sweeps.trials import Plugins, Trials


SCORE = {"_target_": "pipeline.runs.objectives.Score", "metric": "norm/frobenius_ratio/edited"}
SPACE = "x=interval(0.0,10.0)"


class Interrupted(BaseException):
    """As a signal would."""


class Cheap:
    """A launcher whose runs give -(x - 3)² and x at once; `jobs` are all that it was given."""

    def __init__(self, config: DictConfig, values: Callable[[float], Any]) -> None:
        self.config, self.values = config, values
        self.jobs: list[tuple[str, ...]] = []
        self.batches: list[int] = []

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append(len(overrides))
        return [self._job(tuple(each)) for each in overrides]

    def _job(self, overrides: tuple[str, ...]) -> JobReturn:
        self.jobs.append(overrides)
        job = JobReturn(overrides=overrides)  # without a configuration, as from another process
        config: Any = OmegaConf.merge(self.config, OmegaConf.from_dotlist(list(overrides)))
        try:
            job.return_value, job.status = self.values(config.x), JobStatus.COMPLETED
        except Exception as error:
            job.return_value, job.status = error, JobStatus.FAILED
        return job


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Cheap, Any]]:
    """Searches with a cheap task; the launcher and the study."""

    def start(
        values: Callable[[float], Any] = lambda x: -((x - 3) ** 2),
        *,
        space: str = SPACE,
        objective: dict | None = None,
        settings: dict | None = None,
        **options: Any,
    ) -> tuple[Cheap, Any]:
        config = OmegaConf.create(
            {
                "name": "cheap",
                "x": 0.0,
                "stage": {"norms": {"_target_": "analysis.stages.norms.Norms"}},
                "intervention": {"of": "${batch_size}"},
                "batch_size": 1,
                "objective": objective or {"score": SCORE},
                "hydra": {"sweep": {"dir": str(tmp_path)}},
                **(settings or {}),
            }
        )
        launcher = Cheap(config, values)
        monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", lambda **_: launcher)
        sampler = OmegaConf.create({"_target_": "optuna.samplers.TPESampler", "seed": None})
        storage = f"sqlite:///{tmp_path}/study.db"
        given = {"n_trials": 4, "n_jobs": 1, "max_failure_rate": 1.0, "seed": 0, "params": None, **options}
        trials = Trials(sampler=sampler, storage=storage, study_name="cheap", **given)
        merged = lambda config, overrides: OmegaConf.merge(config, OmegaConf.from_dotlist(overrides))  # noqa: E731
        loader = SimpleNamespace(load_sweep_config=merged, get_search_path=ConfigSearchPathImpl)
        context: Any = SimpleNamespace(config_loader=loader)
        trials.setup(hydra_context=context, task_function=lambda _: None, config=config)
        with suppress(Interrupted):
            trials.sweep([space])
        with quiet_optuna():
            return launcher, optuna.load_study(study_name="cheap", storage=storage)

    return start


def parameters(study: Any) -> list[float]:
    return [trial.params["x"] for trial in study.trials]


def test_launched_again_a_search_adds_only_what_is_missing(search):
    _, study = search(n_trials=3)
    assert len(study.trials) == 3
    again, _ = search(n_trials=3)
    assert again.jobs == []
    more, study = search(n_trials=5)
    assert len(more.jobs) == 2 and len(study.trials) == 5


def test_an_interrupted_search_draws_what_it_would_have_drawn(search, tmp_path: Path):
    def killed(x: float) -> float:
        if len(calls := [*seen, x]) == 3:
            raise Interrupted
        seen[:] = calls
        return -((x - 3) ** 2)

    seen: list[float] = []
    first, study = search(killed, n_trials=6)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    second, study = search(n_trials=6)
    assert second.jobs[0] == first.jobs[-1], "the run that was interrupted goes on"
    (tmp_path / "study.db").unlink()
    _, whole = search(n_trials=6)
    assert parameters(study) == parameters(whole)
    assert len(set(parameters(study))) == 6


def test_a_trial_that_kills_its_process_again_and_again_fails(search):
    def killed(x: float) -> float:
        raise Interrupted

    for _ in range(3):
        search(killed, n_trials=2)
    _, study = search(n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "killed 3 times" in study.trials[0].user_attrs["error"]


@pytest.mark.parametrize("left", [asked.Interrupted(signal.SIGTERM), SystemExit(143), KeyboardInterrupt()])
def test_who_asks_a_search_to_leave_kills_no_trial(search, left: BaseException):
    def interrupted(x: float) -> float:
        raise left

    for _ in range(4):
        with pytest.raises(type(left)):
            search(interrupted, n_trials=2)
    _, study = search(n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_search_between_two_runs_leaves_in_order(search, number: int):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as gone:
        search(lambda x: os.kill(os.getpid(), number), n_trials=2)
    assert gone.value.code == 128 + number and signal.getsignal(number) is before
    _, study = search(n_trials=1)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]
    assert "begun" not in study.trials[0].user_attrs


@pytest.mark.parametrize("left", [None, JobLeft("it was asked to leave")])
def test_a_run_that_is_not_over_leaves_its_trial_waiting(search, left: JobLeft | None, tmp_path: Path):
    def half(x: float) -> float | None:
        seen.append(x)
        if len(seen) % 2:
            return x
        if left is None:
            return None
        raise left

    seen: list[float] = []
    _, study = search(half, n_trials=4)
    assert len(set(seen)) == len(seen) == 4
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "WAITING"] * 2
    again, study = search(n_trials=4)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert [float(job[0].partition("=")[2]) for job in again.jobs] == seen[1::2]


def test_a_run_that_another_process_has_computed_meanwhile_counts(search, tmp_path: Path):
    _, study = search(lambda x: None, n_trials=1)
    folder = tmp_path / study.trials[0].user_attrs["run"]
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"metrics": {SCORE["metric"]: 7.0}}))
    (folder / "DONE").touch()
    _, study = search(lambda x: None, n_trials=1)
    assert study.best_value == 7.0


def test_every_trial_names_its_run(search):
    launcher, study = search(n_trials=2)
    for trial, overrides in zip(study.trials, launcher.jobs, strict=True):
        config = OmegaConf.merge(launcher.config, OmegaConf.from_dotlist(list(overrides)))
        assert isinstance(config, DictConfig)
        assert trial.user_attrs["run"] == fingerprint(resolved(config))


def test_a_run_that_fails_is_a_failed_trial_with_its_sentence(search):
    def half(x: float) -> float | None:
        if x > 5:
            raise DataError("x is too large\nand more")
        return float("nan") if x > 4 else x

    _, study = search(half, n_trials=8)
    states = {trial.state.name for trial in study.trials}
    assert states == {"COMPLETE", "FAIL"} and len(study.trials) == 8
    errors = {trial.user_attrs["error"] for trial in study.trials if trial.state.name == "FAIL"}
    assert "x is too large" in errors
    assert all(trial.params["x"] > 4 for trial in study.trials if trial.state.name == "FAIL")


def test_trials_that_are_one_run_are_launched_once(search):
    launcher, study = search(
        lambda x: x, space="tracker=choice(a,b)", settings={"tracker": "a"}, n_trials=6, n_jobs=6
    )
    assert {trial.params["tracker"] for trial in study.trials} == {"a", "b"}
    assert launcher.batches == [1]


def test_a_trial_that_cannot_be_composed_fails_alone(search, monkeypatch: pytest.MonkeyPatch):
    def picky(config: DictConfig) -> DictConfig:
        if config.x > 5:
            raise ValueError("no such choice")
        return config

    monkeypatch.setattr("pipeline.sweeps.trials.without_hydra", picky)
    _, study = search(n_trials=8, n_jobs=4)
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert failed and all(trial.params["x"] > 5 for trial in failed)
    assert {trial.user_attrs["error"] for trial in failed} == {"ValueError: no such choice"}


def test_too_many_failures_end_the_search(search):
    with pytest.raises(DataError, match=r"1 of 1 trials failed.*max_failure_rate=0.5"):
        search(lambda x: float("nan"), max_failure_rate=0.5)


def test_a_search_without_a_result_says_why(search):
    with pytest.raises(DataError, match=r"all 2 trials failed; the first: .*objective=score"):
        search(lambda x: float("nan"), n_trials=2)


def test_several_objectives_give_a_pareto_front(search):
    other = {**SCORE, "direction": "minimize"}
    _, study = search(lambda x: [x, x], objective={"gain": SCORE, "cost": other}, n_trials=4)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert len(study.best_trials) == 4, "more of one is more of the other"


def test_a_direction_is_the_objectives(search):
    _, study = search(lambda x: x, objective={"score": {**SCORE, "direction": "minimize"}})
    assert study.best_value == min(parameters(study))


def test_trials_go_to_the_launcher_together_and_the_same_run_once(search):
    launcher, study = search(lambda x: x, space="x=choice(1,2)", n_trials=7, n_jobs=3)
    assert len(study.trials) == 7
    assert len(launcher.batches) == 3 and max(launcher.batches) <= 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"space": "y=interval(0.0,1.0)"}, "other parameters"),
        ({"space": "x=choice(1,2)"}, "other parameters"),
        ({"objective": {"score": {**SCORE, "direction": "minimize"}}}, "other objectives"),
        ({"settings": {"batch_size": 2}}, "other settings"),
        ({"space": "x=1"}, "nothing is searched"),
        ({"n_trials": 0}, "at least 1"),
        ({"objective": {"score": {**SCORE, "metric": "edit/score/seen"}}}, "add efficacy"),
    ],
)
def test_what_does_not_fit_is_a_sentence(search, change: dict, sentence: str):
    search(n_trials=1)
    with pytest.raises(ConfigError, match=sentence):
        search(**{"n_trials": 2, **change})


def test_a_wider_range_may_go_on(search):
    search(n_trials=1)
    _, study = search(n_trials=2, space="x=interval(0.0,20.0)")
    assert len(study.trials) == 2


def test_a_database_that_is_none_is_a_sentence(search, tmp_path: Path):
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(DataError, match=r"study\.db cannot be opened"):
        search()


def test_without_optuna_a_sentence_names_the_extra(overrides: list[str], tmp_path: Path):
    (tmp_path / "optuna.py").write_text("raise ImportError('No module named optuna')")
    script = "import sys; sys.path.insert(0, '.'); from pipeline.__main__ import main; main()"
    arguments = ["-m", "hydra/sweeper=optuna", *overrides, "editor.preservation_weight=interval(1,9)"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'normscope[optuna]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_search_ends_with_its_trials_and_no_run_twice(overrides: list[str], tmp_path: Path):
    arguments = [
        "-m", "hydra/sweeper=optuna", *overrides, "stage=[norms,efficacy,signatures]",
        "objective=[score,edits_before_alarm]", "hydra.sweeper.n_trials=4",
        "editor.preservation_weight=tag(log,interval(1,1000))",
    ]  # fmt: skip
    folder = tmp_path / "outputs" / "test"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments], cwd=tmp_path, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list(folder.glob("*/DONE"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    marks = {path: path.stat().st_mtime_ns for path in folder.glob("*/DONE")}
    assert 2 <= len(marks) < 4
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "alembic" not in done.stderr
    assert len(list(folder.glob("*/DONE"))) == len(list(folder.glob("*/config.yaml"))) == 4
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    with quiet_optuna():
        study = optuna.load_study(study_name="test", storage=f"sqlite:///{folder}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert {trial.user_attrs["run"] for trial in study.trials} == {
        path.parent.name for path in folder.glob("*/DONE")
    }
    assert all(len(trial.values) == 2 for trial in study.trials)
