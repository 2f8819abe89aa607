"""A search: its trials are runs, the same command continues it, and mistakes are sentences."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from editors.errors import ConfigError, DataError, NumericsError
from pipeline.config.fingerprint import run_name
from pipeline.config.schema import ResolvedConfig, resolved
from pipeline.runs import signals
from pipeline.runs.signals import JobLeft
from tests.optuna_files import old_study
from tests.paths import CONF, ROOT
from tests.pipeline.forked import started
from tests.pipeline.test_cli import run_forked

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.storages._rdb.storage import _VersionManager  # noqa: E402

from pipeline.sweeps.search_space import split  # noqa: E402
from pipeline.sweeps.trials import Plugins, Trials  # noqa: E402

SCORE = {"_target_": "pipeline.runs.objectives.Score", "metric": "norm/frobenius_ratio/edited"}
SPACE = "x=interval(0.0,10.0)"
TPE = OmegaConf.create({"_target_": "optuna.samplers.TPESampler", "seed": None})


class Interrupted(BaseException):
    """Ends the process at once, like a kill."""


class Cheap:
    """A launcher whose runs take no time; `jobs` and `batches` are all that it launched."""

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


@pytest.fixture(scope="module", autouse=True)
def migrations() -> Iterator[None]:
    """Optuna's migrations are read once, instead of at every opening of a study, most of a cheap search."""
    read = _VersionManager._create_alembic_script
    kept: list[Any] = []

    def script(self: _VersionManager) -> Any:
        if not kept:
            kept.append(read(self))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", script)
        yield


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Cheap, Any]]:
    """Searches with a cheap task; the launcher and the study."""

    def start(
        values: Callable[[float], Any] = lambda x: -((x - 3) ** 2),
        *,
        space: str | list[str] = SPACE,
        sampler: Any = TPE,
        study_name: str = "cheap",
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
        storage = f"sqlite:///{tmp_path}/study.db"
        keywords = {"n_trials": 4, "n_jobs": 1, "max_failure_rate": 1.0, "seed": 0, "params": None, **options}
        trials = Trials(sampler=sampler, storage=storage, study_name=study_name, **keywords)
        merged = lambda config, overrides: OmegaConf.merge(config, OmegaConf.from_dotlist(overrides))  # noqa: E731
        loader = SimpleNamespace(load_sweep_config=merged, get_search_path=ConfigSearchPathImpl)
        context: Any = SimpleNamespace(config_loader=loader)
        trials.setup(hydra_context=context, task_function=lambda _: None, config=config)
        with suppress(Interrupted):
            trials.sweep([space] if isinstance(space, str) else space)
        return launcher, optuna.load_study(study_name=study_name, storage=storage)

    return start


def parameters(study: Any) -> list[float]:
    return [trial.params["x"] for trial in study.trials]


def test_a_search_begins_with_the_parameters_that_are_given(search: Callable[..., tuple[Cheap, Any]]):
    _, study = search(first=[{"x": 9.0}, {"x": 1.0}], n_trials=3)
    assert parameters(study)[:2] == [9.0, 1.0]
    assert parameters(study)[2] not in (9.0, 1.0)
    search(first=[{"x": 9.0}, {"x": 1.0}], n_trials=4)
    _, continued = search(first=[{"x": 9.0}, {"x": 1.0}], n_trials=4)
    assert parameters(continued)[:2] == [9.0, 1.0] and parameters(continued).count(9.0) == 1


def ends(study: Any) -> list[str]:
    """How each trial ended: complete, failed, or not over."""
    words = {"COMPLETE": "complete", "FAIL": "failed"}
    return [words.get(trial.state.name, "not over") for trial in study.trials]


def reasons(study: Any) -> dict[int, str]:
    """Why trials failed, by number."""
    return {int(number): reason for number, reason in study.user_attrs.get("errors", {}).items()}


def test_the_same_command_adds_only_missing_trials(search):
    _, study = search(n_trials=3)
    assert len(study.trials) == 3
    again, _ = search(n_trials=3)
    assert again.jobs == []
    more, study = search(n_trials=5)
    assert len(more.jobs) == 2 and len(study.trials) == 5


@pytest.mark.parametrize("n_jobs", [1, 4])
def test_an_interrupted_search_draws_the_same_values(search, tmp_path: Path, n_jobs: int):
    def killed(x: float) -> float:
        if len(calls := [*computed, x]) == 3:
            raise Interrupted
        computed[:] = calls
        return -((x - 3) ** 2)

    computed: list[float] = []
    first, study = search(killed, n_trials=6, n_jobs=n_jobs)
    assert ends(study)[-1] == "not over"
    second, study = search(n_trials=6, n_jobs=n_jobs)
    assert second.jobs[0] == first.jobs[2 if n_jobs == 1 else 0], "the interrupted run comes first"
    (tmp_path / "study.db").unlink()
    _, whole = search(n_trials=6, n_jobs=n_jobs)
    assert parameters(study) == parameters(whole)
    assert len(set(parameters(study))) == 6


def test_a_trial_without_a_run_is_drawn_again(search, monkeypatch: pytest.MonkeyPatch):
    """A process may be killed when Optuna has the values, but before their run begins."""

    def killed(*_: object) -> None:
        raise Interrupted

    _, whole = search(n_trials=2)
    _, study = search(n_trials=2, study_name="killed")
    with monkeypatch.context() as patched:
        patched.setattr(Trials, "_job", killed)
        search(n_trials=3, study_name="killed")
    _, study = search(n_trials=3, study_name="killed")
    _, whole = search(n_trials=3)
    assert ends(study) == ["complete", "complete", "failed", "complete"]
    assert "before its run began" in reasons(study)[2]
    assert parameters(study)[3] == parameters(whole)[2]


def test_a_trial_fails_when_its_process_was_killed_three_times(search):
    def killed(x: float) -> float:
        raise Interrupted

    for _ in range(3):
        search(killed, n_trials=2)
    _, study = search(n_trials=2)
    assert ends(study) == ["failed", "complete"]
    assert "killed 3 times" in reasons(study)[0]


def test_a_kill_counts_only_against_launched_trials(search):
    """Two trials wait; only the first is launched in each of the launches that are killed."""

    def killed(x: float) -> float:
        raise Interrupted

    search(lambda x: None, n_trials=2, n_jobs=2)
    for _ in range(3):
        search(killed, n_trials=2, n_jobs=1)
    _, study = search(n_trials=2)
    assert ends(study) == ["failed", "complete"]


@pytest.mark.parametrize("error", [signals.Interrupted(signal.SIGTERM), SystemExit(143), KeyboardInterrupt()])
def test_a_request_to_leave_counts_against_no_trial(search, error: BaseException):
    def interrupted(x: float) -> float:
        raise error

    for _ in range(4):
        with pytest.raises(type(error)):
            search(interrupted, n_trials=2)
    _, study = search(n_trials=2)
    assert ends(study) == ["complete", "complete"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_search_between_two_runs_stops_cleanly(search, number: int):
    before = signal.getsignal(number)
    for _ in range(4):
        with pytest.raises(SystemExit) as end:
            search(lambda x: os.kill(os.getpid(), number), n_trials=2)
        assert end.value.code == 128 + number and signal.getsignal(number) is before
    _, study = search(n_trials=1)
    assert ends(study) == ["complete"]


@pytest.mark.parametrize("error", [None, JobLeft("it was asked to leave")])
def test_a_run_that_is_not_over_leaves_its_trial_waiting(search, error: JobLeft | None):
    def half(x: float) -> float | None:
        launched.append(x)
        if len(launched) % 2:
            return x
        if error is None:
            return None
        raise error

    launched: list[float] = []
    _, study = search(half, n_trials=4)
    assert len(set(launched)) == len(launched) == 4
    assert ends(study) == ["complete", "not over"] * 2
    again, study = search(n_trials=4)
    assert ends(study) == ["complete"] * 4
    assert [float(job[0].partition("=")[2]) for job in again.jobs] == launched[1::2]


def test_a_run_that_another_process_computed_meanwhile_counts(search, tmp_path: Path):
    _, study = search(lambda x: None, n_trials=1)
    folder = tmp_path / study.trials[0].user_attrs["run"]
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"metrics": {SCORE["metric"]: 7.0}}))
    (folder / "DONE").write_text("2026-01-31T12:00:00+00:00")
    _, study = search(lambda x: None, n_trials=1)
    assert study.best_value == 7.0


def test_a_trial_that_failed_in_a_later_launch_has_its_reason(search):
    def fails(x: float) -> float:
        raise DataError("x is too large")

    search(lambda x: None, n_trials=2)
    with pytest.raises(DataError, match="all 2 trials failed"):
        search(fails, n_trials=2)
    _, study = search(n_trials=3)
    assert reasons(study) == {0: "x is too large", 1: "x is too large"}


def test_every_trial_names_its_run(search):
    launcher, study = search(n_trials=2)
    for trial, overrides in zip(study.trials, launcher.jobs, strict=True):
        config = OmegaConf.merge(launcher.config, OmegaConf.from_dotlist(list(overrides)))
        assert isinstance(config, DictConfig)
        assert trial.user_attrs["run"] == run_name(resolved(config))


def test_a_run_that_fails_is_a_failed_trial_with_its_reason(search):
    def half(x: float) -> float | None:
        if x > 5:
            raise DataError("x is too large\nand more")
        return float("nan") if x > 4 else x

    _, study = search(half, n_trials=8)
    assert set(ends(study)) == {"complete", "failed"} and len(study.trials) == 8
    assert "x is too large" in reasons(study).values()
    assert all((trial.params["x"] > 4) == (trial.number in reasons(study)) for trial in study.trials)


def test_trials_that_are_one_run_are_launched_once(search):
    launcher, study = search(
        lambda x: x, space="tracker=choice(a,b)", settings={"tracker": "a"}, n_trials=6, n_jobs=6
    )
    assert {trial.params["tracker"] for trial in study.trials} == {"a", "b"}
    assert launcher.batches == [1]


def test_a_trial_that_cannot_be_composed_fails_alone(search, monkeypatch: pytest.MonkeyPatch):
    def picky(config: DictConfig) -> ResolvedConfig:
        if config.x > 5:
            raise ValueError("no such choice")
        return resolved(config)

    monkeypatch.setattr("pipeline.sweeps.trials.resolved", picky)
    _, study = search(n_trials=8, n_jobs=4)
    failed = reasons(study)
    assert failed and all(study.trials[number].params["x"] > 5 for number in failed)
    assert set(failed.values()) == {"ValueError: no such choice"}


def test_too_many_failures_end_the_search(search):
    with pytest.raises(DataError, match=r"1 of 1 trials failed.*max_failure_rate=0.5"):
        search(lambda x: float("nan"), max_failure_rate=0.5)


def test_a_search_without_a_result_gives_the_reason(search):
    with pytest.raises(DataError, match=r"all 2 trials failed; the first: .*objective=score"):
        search(lambda x: float("nan"), n_trials=2)


def test_an_error_of_the_first_trial_ends_a_search_that_needs_it(search):
    launched: list[float] = []

    def refused(x: float) -> float:
        launched.append(x)
        raise ConfigError("the package is not installed")

    with pytest.raises(ConfigError, match="not installed"):
        search(refused, first=[{"x": 9.0}], first_must_run=True)
    assert launched == [9.0]
    _, study = search(first=[{"x": 9.0}], first_must_run=True)
    assert parameters(study)[0] == 9.0 and ends(study) == ["complete"] * 4


def test_a_search_without_results_may_be_replaced(search):
    with pytest.raises(ConfigError, match="not installed"):
        search(lambda x: (_ for _ in ()).throw(ConfigError("not installed")), first_must_run=True)
    _, study = search(space="x=interval(20,30)", settings={"text": "another"}, n_trials=2)
    assert ends(study) == ["complete"] * 2 and min(parameters(study)) >= 20
    with pytest.raises(ConfigError, match="another name"):
        search(settings={"text": "a third"})


@pytest.mark.parametrize("first_must_run", [True, False])
def test_a_first_trial_that_diverges_is_one_of_many(search, first_must_run: bool):
    def large(x: float) -> float:
        if x == 2:
            raise NumericsError("the loss is NaN")
        return float("nan") if x == 9 else x

    _, study = search(large, first=[{"x": 9.0}, {"x": 2.0}], first_must_run=first_must_run)
    assert ends(study) == ["failed", "failed", "complete", "complete"]


def test_several_objectives_give_a_pareto_front(search):
    other = {**SCORE, "direction": "minimize"}
    _, study = search(lambda x: [x, x], objective={"gain": SCORE, "cost": other}, n_trials=4)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["gain", "cost"]
    assert len(study.best_trials) == 4, "more of one is more of the other"


def test_the_direction_is_that_of_the_objective(search):
    _, study = search(lambda x: x, objective={"score": {**SCORE, "direction": "minimize"}})
    assert study.best_value == min(parameters(study))


def test_a_batch_launches_each_run_once(search):
    launcher, study = search(lambda x: x, space="x=choice(1,2)", n_trials=7, n_jobs=3)
    assert len(study.trials) == 7
    assert len(launcher.batches) == 3 and max(launcher.batches) <= 2


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsgaii"])
def test_every_sampler_of_the_configuration_draws(search, sampler: str):
    config = OmegaConf.load(CONF / "hydra" / "sweeper" / "sampler" / f"{sampler}.yaml")
    space = ["x=interval(0.0,10.0)", "batch_size=range(1,9,2)"]
    _, study = search(sampler=config, space=space, n_trials=5, n_jobs=2)
    assert ends(study) == ["complete"] * 5
    assert all(trial.params["batch_size"] in (1, 3, 5, 7, 9) for trial in study.trials)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"space": "y=interval(0.0,1.0)"}, "other parameters"),
        ({"space": "x=choice(1,2)"}, "other parameters"),
        ({"objective": {"score": {**SCORE, "direction": "minimize"}}}, "other objectives"),
        ({"settings": {"batch_size": 2}}, "other settings"),
        ({"space": "x=1"}, "nothing is searched"),
        ({"space": "x=interval(3.0,1.0)"}, r"x=interval\(3.0,1.0\) cannot be searched"),
        ({"space": "x=tag(lgo,interval(1.0,3.0))"}, r"x=tag\(lgo.* cannot be searched"),
        ({"space": "x=tag(log,interval(0.0,3.0))"}, r"x=tag\(log.* cannot be searched"),
        ({"n_trials": 0}, "n_trials=0.* at least 1"),
        ({"objective": {"score": {**SCORE, "metric": "edit/score/seen"}}}, "add efficacy"),
    ],
)
def test_a_mistake_is_a_sentence(search, change: dict, sentence: str):
    search(n_trials=1)
    with pytest.raises(ConfigError, match=sentence):
        search(**{"n_trials": 2, **change})


def test_the_range_of_a_stored_search_may_change(search):
    search(n_trials=1)
    _, study = search(n_trials=2, space="x=interval(0.0,20.0)")
    assert len(study.trials) == 2


def test_a_file_that_is_no_database_is_a_sentence(search, tmp_path: Path):
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(DataError, match=r"study\.db cannot be opened .*: move that file away"):
        search()


def test_a_study_of_an_older_optuna_is_a_sentence(search, tmp_path: Path):
    old_study(tmp_path / "study.db")
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(
        DataError, match=r"study\.db holds a search by Optuna 2\.10\.1.*name=….*delete"
    ) as error:
        search()
    assert "\n" not in str(error.value)
    assert (tmp_path / "study.db").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("x=interval(0,1)", FloatDistribution(0, 1)),
        ("x=int(interval(0.0,8.0))", IntDistribution(0, 8)),
        ("x=tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("x=tag(log,interval(0.01,100))", FloatDistribution(0.01, 100, log=True)),
        ("x=range(1,9,2)", IntDistribution(1, 9, step=2)),
        ("x=range(0.0,1.0,0.25)", FloatDistribution(0, 1, step=0.25)),
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=choice(1,2.5,true)", CategoricalDistribution([1, 2.5, True])),
        ("x=choice([1,2],'a b')", CategoricalDistribution(["[1,2]", r"a\ b"])),
    ],
)
def test_overrides_are_distributions(override: str, distribution: Any):
    space, fixed = split(OverridesParser.create().parse_overrides(["y=1", "z=1", "y=2", override]))
    assert space == {"x": distribution}
    assert fixed == ["y=2", "z=1"]


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
    assert "pip install optuna cmaes" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_search_ends_with_its_trials_and_no_run_twice(overrides: list[str], tmp_path: Path):
    arguments = [
        "-m", "hydra/sweeper=optuna", *overrides, "stage=[norms,efficacy,signatures]",
        "objective=[score,edits_before_alarm]", "hydra.sweeper.n_trials=4",
        "editor.preservation_weight=tag(log,interval(1,1000))",
    ]  # fmt: skip
    folder = tmp_path / "outputs" / "test"
    killed = tmp_path / "killed"
    killed.mkdir()
    process = started(arguments, tmp_path, killed, environment={"HF_HUB_OFFLINE": "1"})
    while len(list(folder.glob("*-*/DONE"))) < 2 and process.is_alive():
        time.sleep(0.05)
    process.kill()
    process.join()
    marks = {path: path.stat().st_mtime_ns for path in folder.glob("*-*/DONE")}
    assert 2 <= len(marks) < 4
    done = run_forked(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "alembic" not in done.stderr
    assert len(list(folder.glob("*-*/DONE"))) == len(list(folder.glob("*-*/config.yaml"))) == 4
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    study = optuna.load_study(study_name="test", storage=f"sqlite:///{folder}/study.db")
    # a kill between two runs may leave a trial without a run: it has failed, and its values were drawn again
    complete = [trial for trial in study.trials if trial.user_attrs.get("run")]
    assert ends(study).count("complete") == len(complete) == 4
    assert all(end == "failed" for end in ends(study) if end != "complete") and len(study.trials) <= 5
    assert {trial.user_attrs["run"] for trial in complete} == {
        path.parent.name for path in folder.glob("*-*/DONE")
    }
    assert all(len(trial.values) == 2 for trial in complete)
