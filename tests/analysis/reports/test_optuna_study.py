"""The section on a search: trials, the best, importance; and a sentence if there is no section."""

from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.plots.charts.save import draw
from analysis.plots.interactive.draw import interactive
from analysis.reports.html_report import render
from analysis.reports.optuna_study import searches
from analysis.results.collection import collect
from tests.fake_runs import keep_metrics
from tests.optuna_files import old_study

optuna = pytest.importorskip("optuna")
from optuna.distributions import FloatDistribution  # noqa: E402

HOSTILE = "<script>document.title='owned'</script>"


def store(
    folder: Path, rows: list[tuple[float, list[float] | None]], names: tuple[str, ...] = ("score",)
) -> None:
    """A study whose trials have these x and values; those without values failed."""
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/study.db", study_name=HOSTILE, directions=["maximize"] * len(names)
    )
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names([*names])
    for x, values in rows:
        trial = study.ask({"x": FloatDistribution(x, x), "y": FloatDistribution(0, 1)})
        trial.set_user_attr("run", f"run{trial.number}")
        if values is None:
            study.set_user_attr("errors", {str(trial.number): HOSTILE})
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, values)


def test_an_experiment_without_a_study_has_no_search(tmp_path: Path):
    assert searches(tmp_path) == []


def test_the_best_trial_is_marked_and_a_failed_one_told(tmp_path: Path):
    store(tmp_path, [(1.0, [0.5]), (2.0, [0.9]), (3.0, None)])
    (search,) = searches(tmp_path)
    assert search.trials["state"].tolist() == ["complete", "best", "fail"]
    assert search.trials["run"].tolist() == ["run0", "run1", "run2"]
    assert search.trials["score"].tolist() == ["0.5", "0.9", "–"]
    assert any(note.startswith("Trial 2 failed") for note in search.notes)
    assert any("at least 6 completed trials; there are 2." in note for note in search.notes)


@pytest.mark.parametrize("infinite", [float("inf"), float("-inf")])
def test_infinite_values_are_told_and_not_drawn(tmp_path: Path, infinite: float):
    rows = [(float(x), [x / 10]) for x in range(7)]
    store(tmp_path, [*rows, (8.0, [infinite])])
    (search,) = searches(tmp_path)
    assert search.trials["score"].tolist()[-2:] == ["0.6", f"{infinite:.4g}"]
    assert "Values of 1 trials are not finite: they are not drawn." in search.notes
    assert search.chart is not None and search.importance["parameter"].tolist() == ["y"]
    draw(search.chart)
    interactive(search.chart)


def test_a_study_of_infinite_values_alone_has_no_chart(tmp_path: Path):
    store(tmp_path, [(1.0, [float("inf")])])
    (search,) = searches(tmp_path)
    assert search.chart is None and search.trials["score"].tolist() == ["inf"]


def test_the_front_of_several_objectives_is_marked(tmp_path: Path):
    store(tmp_path, [(1.0, [0.0, 1.0]), (2.0, [1.0, 0.0]), (3.0, [0.0, 0.0])], names=("a", "b"))
    (search,) = searches(tmp_path)
    assert search.trials["state"].tolist() == ["Pareto-optimal", "Pareto-optimal", "complete"]
    assert search.chart is not None and [track.label for track in search.chart.tracks] == [
        "other trials",
        "Pareto-optimal",
    ]
    draw(search.chart)
    interactive(search.chart)


def test_the_parameter_that_matters_has_the_larger_share(tmp_path: Path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="s")
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    for _ in range(12):
        trial = study.ask({name: FloatDistribution(0, 1) for name in ("x", "y")})
        study.tell(trial, 10 * trial.params["x"] + 0.01 * trial.params["y"])
    (search,) = searches(tmp_path)
    assert search.importance["parameter"].tolist() == ["x", "y"]
    assert float(search.importance["value 1"][0]) > 0.8


def test_a_trial_that_was_left_in_order_waits(tmp_path: Path):
    store(tmp_path, [(1.0, [0.5])])
    study = optuna.load_study(study_name=HOSTILE, storage=f"sqlite:///{tmp_path}/study.db")
    study.set_user_attr("unfinished", {"killed": {}, "left": [study.ask().number]})
    study.ask()
    (search,) = searches(tmp_path)
    assert search.trials["state"].tolist() == ["best", "waiting", "running"]


def test_the_report_shows_it_and_escapes_everything(experiment: Path):
    store(experiment, [(1.0, [0.5]), (2.0, None)])
    keep_metrics(experiment, "norm/frobenius_ratio/edited")
    before = (experiment / "study.db").read_bytes()
    assert main(["report", str(experiment)]) == 0
    page = (experiment / "report.html").read_text()
    assert 'id="search1"' in page and "best so far" in page
    assert HOSTILE not in page
    assert (experiment / "study.db").read_bytes() == before, "a report only reads"
    assert len(list((experiment / "figures").glob("search-*.svg"))) == 1


def test_a_file_that_is_no_study_is_a_sentence(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    (experiment / "study.db").write_text("no database")
    (search,) = searches(experiment)
    assert "cannot be opened" in search.notes[0]
    assert "cannot be opened" in render(collect(experiment), [], title="t", studies=[search])
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    (search,) = searches(experiment)
    assert "pip install optuna cmaes" in search.notes[0]


def test_a_study_of_an_older_optuna_is_a_sentence(tmp_path: Path):
    old_study(tmp_path / "study.db")
    before = (tmp_path / "study.db").read_bytes()
    (search,) = searches(tmp_path)
    assert "study.db" in search.notes[0] and "Optuna 2.10.1" in search.notes[0]
    assert (tmp_path / "study.db").read_bytes() == before
