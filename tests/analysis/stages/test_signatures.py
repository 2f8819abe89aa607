"""Alarms: each threshold from both sides, once in a run, and what cannot be."""

import math

import pytest

from analysis.stages.base import Observation, Stage
from analysis.stages.signatures import Judge, Signatures
from editors.errors import ConfigError
from editors.updates import Site

SITE = Site("mlp_down", 1)
NORM, LATE, PROBE, TASK = (
    f"norm/frobenius_ratio/{SITE}",
    "activation/norm_ratio/late",
    "probe/accuracy/mean",
    "downstream/mean/acc",
)


def fired(judge: Signatures, edits: int, **numbers: float) -> list[str]:
    seen = Observation(count=edits, total=100, edited=[SITE])
    keys = {"norm": NORM, "late": LATE, "probe": PROBE, "task": TASK}
    alarms = judge.judge(seen, {keys[name]: value for name, value in numbers.items()})
    assert all(alarm.count == edits for alarm in alarms)
    return [alarm.signature for alarm in alarms]


@pytest.mark.parametrize(
    ("numbers", "signatures"),
    [
        ({"norm": 2.0}, []),
        ({"norm": 2.01}, ["norm_growth"]),
        ({"norm": 0.1}, []),
        ({"late": 0.6}, []),
        ({"late": 0.59}, ["activation_shift"]),
        ({"late": 1.66}, []),
        ({"late": 1.67}, ["activation_shift"]),
        ({"probe": 0.7}, []),
        ({"probe": 0.69}, ["probe_collapse"]),
        ({"norm": math.nan, "late": math.nan, "probe": math.nan},
         ["norm_growth", "activation_shift", "probe_collapse"]),
        ({}, []),
    ],
)  # fmt: skip
def test_a_number_past_its_threshold_fires_and_one_at_it_does_not(
    numbers: dict[str, float], signatures: list[str]
):
    assert fired(Signatures(), 5, **numbers) == signatures


def test_ability_is_lost_after_falls_in_a_row_only():
    judge = Signatures(ability_loss=2)
    scores = [0.9, 0.8, 0.85, 0.84, 0.84, 0.83, 0.82]
    assert [fired(judge, i, task=score) for i, score in enumerate(scores)] == [[]] * 6 + [["ability_loss"]]


def test_a_moment_without_a_score_does_not_interrupt_the_falls():
    judge = Signatures(ability_loss=2)
    signatures = [
        fired(judge, 0, task=0.9),
        fired(judge, 1, task=0.8),
        fired(judge, 2),
        fired(judge, 3, task=0.7),
    ]
    assert signatures == [[], [], [], ["ability_loss"]]


def test_a_score_that_is_nan_is_lost_ability_at_once():
    """The scores after a new start are no falls."""
    judge = Signatures(ability_loss=3)
    assert fired(judge, 0, task=0.8) == []
    assert fired(judge, 1, task=math.nan) == ["ability_loss"]
    judge.begin()
    signatures = [fired(judge, i, task=score) for i, score in enumerate((0.8, 0.9, 0.8, 0.7))]
    assert signatures == [[]] * 4


def test_falls_within_the_margin_do_not_count():
    judge = Signatures(ability_loss=1, ability_margin=0.05)
    assert fired(judge, 0, task=0.9) == fired(judge, 1, task=0.86) == []
    assert fired(judge, 2, task=0.80) == ["ability_loss"]


def test_each_signature_fires_once_until_a_new_run_begins():
    judge = Signatures()
    assert fired(judge, 1, norm=3.0) == ["norm_growth"]
    assert fired(judge, 2, norm=4.0) == []
    judge.begin()
    assert fired(judge, 1, norm=3.0) == ["norm_growth"]


def test_the_sentence_names_count_metric_value_and_threshold():
    seen = Observation(count=17, total=100, edited=[SITE])
    (alarm,) = Signatures().judge(seen, {NORM: 2.5})
    for part in ("17 edits", NORM, "2.5", "over 2", "norm_growth"):
        assert part in alarm.sentence
    assert (alarm.key, alarm.value, alarm.threshold) == (NORM, 2.5, 2.0)


@pytest.mark.parametrize(("count", "said"), [(1, "1 optimiser step:"), (30, "30 optimiser steps:")])
def test_an_alarm_in_training_counts_the_steps_of_its_part(count: int, said: str):
    seen = Observation(count=count, total=100, unit="steps", part=1, edited=[SITE])
    (alarm,) = Signatures().judge(seen, {NORM: 2.5})
    assert said in alarm.sentence and (alarm.count, alarm.unit, alarm.part) == (count, "steps", 1)


def test_null_switches_a_signature_off():
    judge = Signatures(norm_growth=None, activation_shift=None, probe_collapse=None, ability_loss=None)
    assert fired(judge, 1, norm=9.0, late=0.1, probe=0.1, task=0.5) == []
    assert fired(judge, 2, norm=9.0, late=0.1, probe=0.1, task=0.1) == []


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"norm_growth": 0.5}, r"stage\.signatures\.norm_growth=0\.5"),
        ({"probe_collapse": 70.0}, r"stage\.signatures\.probe_collapse=70\.0"),
        ({"ability_loss": 0}, r"stage\.signatures\.ability_loss=0"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(choice: dict[str, float], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        Signatures(**choice)


def test_signatures_judge_and_are_no_stage_that_measures():
    assert isinstance(Signatures(), Judge)
    assert not isinstance(Signatures(), Stage)
