"""Objectives: their values for finished runs, and the message if there is none."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from analysis.metrics import metrics, stage_of
from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved
from pipeline.launch import launch
from pipeline.runs.objectives import (
    EditsBeforeAlarm,
    Findings,
    Score,
    ScoreMinusDownstreamLoss,
    objective_of,
    objective_problems,
    objectives_of,
)
from tests.paths import ROOT

Composed = Callable[..., DictConfig]


def findings(**fields: object) -> Findings:
    empty: dict = {"last": {}, "unedited": {}, "edits": 10, "alarms": [], "parts": []}
    return Findings(**{**empty, **fields})


def alarm(signature: str, count: int, *, unit: str = "edits", part: int = 0) -> dict:
    return {"signature": signature, "count": count, "unit": unit, "part": part}


def test_a_run_without_an_alarm_counts_all_of_its_edits():
    assert EditsBeforeAlarm().value(findings()) == 10


def test_the_first_alarm_counts_of_those_that_are_named():
    alarms = [alarm("norm_growth", 7), alarm("ability_loss", 4)]
    assert EditsBeforeAlarm().value(findings(alarms=alarms)) == 4
    assert EditsBeforeAlarm(signatures=["norm_growth"]).value(findings(alarms=alarms)) == 7
    assert EditsBeforeAlarm(signatures=["probe_collapse"]).value(findings(alarms=alarms)) == 10


def test_edits_of_earlier_parts_were_made_before_an_alarm_as_well():
    parts = [{"unit": unit, "count": 5} for unit in ("edits", "steps", "edits")]
    assert EditsBeforeAlarm().value(findings(alarms=[alarm("norm_growth", 2, part=2)], parts=parts)) == 7
    training = alarm("norm_growth", 3, unit="steps", part=1)
    assert EditsBeforeAlarm().value(findings(alarms=[training], parts=parts)) == 5


def test_lost_downstream_ability_is_subtracted_from_the_score():
    objective = ScoreMinusDownstreamLoss(weight=2.0)
    last = {"edit/score/seen": 0.9, "downstream/mean/acc": 0.5}
    start = {"downstream/mean/acc": 0.6}
    assert objective.value(findings(last=last, unedited=start)) == pytest.approx(0.9 - 2 * 0.1)
    assert objective.value(findings(last=last, unedited={})) is None
    assert objective.value(findings(last={}, unedited=start)) is None


def test_a_stage_that_is_missing_is_named_before_anything_is_computed():
    assert "add efficacy to stage=[norms]" in str(Score(metric="edit/score/seen").lacks({"norms": {}}))
    assert "add signatures" in str(EditsBeforeAlarm().lacks({}))
    assert "efficacy and downstream" in str(ScoreMinusDownstreamLoss().lacks({}))
    assert Score(metric="edit/score/seen").lacks({"efficacy": {}}) is None
    assert Score(metric="edit/target_norm/mean").lacks({}) is None, (
        "the editor reports this metric, not a stage"
    )


def test_a_signature_that_cannot_fire_is_named():
    thresholds = {"signatures": {"norm_growth": 2.0, "ability_loss": None}}
    assert EditsBeforeAlarm(signatures=["norm_growth"]).lacks(thresholds) is None
    for name in ("ability_loss", "norm_grow"):
        assert name in str(EditsBeforeAlarm(signatures=[name]).lacks(thresholds))


def test_the_stages_in_the_table_of_metrics_exist():
    stages = {metric.stage for metric in metrics()} - {None}
    assert stages == {path.stem for path in (ROOT / "conf" / "stage").glob("*.yaml")}


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("norm/frobenius_ratio/edited", "norms"),
        ("norm/singular_3/mlp_down.01", "spectra"),
        ("edit/known/other", "efficacy"),
        ("activation/own/late", "activations"),
        ("edit/key_norm/mean", None),
        ("time/step/seconds", None),
    ],
)
def test_a_key_names_the_stage_that_alone_measures_it(key: str, stage: str | None):
    assert stage_of(key) == stage


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("+objective.score.metrik=x", "objective.score.metrik"),
        ("objective.score.direction=up", "one of maximize, minimize"),
        ("objective.score._target_=os.system", "objective.score._target_=os.system "),
    ],
)
def test_a_mistake_is_a_sentence(composed: Composed, override: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
        objectives_of(resolved(composed(override)))


def test_the_objective_does_not_change_the_fingerprint(composed: Composed):
    fingerprints = {
        fingerprint(resolved(composed(f"objective={choice}"))) for choice in ("score", "edits_before_alarm")
    }
    assert len(fingerprints) == 1


def test_a_finished_run_returns_the_value_of_the_current_objective(composed: Composed, tmp_path: Path):
    stages = "stage=[norms,efficacy,signatures]"
    score = launch(composed(stages), tmp_path)
    (folder,) = (tmp_path / "test").glob("*-*")
    assert RunFolder(folder).final_summary()["objective"] == score
    several = composed(stages, "objective=[edits_before_alarm,score]")
    assert launch(several, tmp_path) == [4.0, score]
    other = composed(stages, "objective.score.metric=norm/frobenius_ratio/edited")
    summary = RunFolder(folder).final_summary()
    assert launch(other, tmp_path) == summary["metrics"]["norm/frobenius_ratio/edited"]
    assert RunFolder(folder).final_summary() == summary, "it stays as it was computed at the end"


def test_without_the_stage_the_value_is_null_and_the_message_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = {
        "stage": {"norms": {}},
        "objective": {"score": {"_target_": "pipeline.runs.objectives.Score", "metric": "edit/score/seen"}},
    }
    summary = {"metrics": {"norm/frobenius_ratio/edited": 1.0}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with caplog.at_level("DEBUG"):
        assert objective_of(config, tmp_path) is None
    assert "add efficacy to stage=[norms]" in caplog.text
    assert objective_problems(config) and not objective_problems({**config, "stage": {"efficacy": {}}})


def test_objectives_need_no_torch():
    script = "import sys, pipeline.runs.objectives, pipeline.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
