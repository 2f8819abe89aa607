"""Alarms: each threshold from both sides, once in a run, and what cannot be."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from analysis.stages.base import Observation, Stage
from analysis.stages.signatures import Judge, Signatures, least_share
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
    keys = {"norm": NORM, "late": LATE, "probe": PROBE, "task": TASK, "error": "downstream/mean/stderr"}
    keys["change"] = "probe/change_high/mean"
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


def test_probes_that_were_weak_from_the_start_have_not_collapsed():
    for high, signatures in ((0.0, []), (0.01, []), (-0.01, ["probe_collapse"])):
        assert fired(Signatures(), 1, probe=0.6, change=high) == signatures


def judged(judge: Signatures, scores: Sequence[float], error: float | None = None) -> list[bool]:
    """Whether ability_loss fires at each of these scores, which have this standard error."""
    errors = {} if error is None else {"error": error}
    return ["ability_loss" in fired(judge, i, task=score, **errors) for i, score in enumerate(scores)]


def test_ability_is_lost_after_scores_below_the_first_in_a_row_only():
    judge = Signatures(ability_loss=2, ability_margin=0.05)
    assert judged(judge, [0.9, 0.8, 0.86, 0.84, 0.85, 0.84]) == [False] * 4 + [True, False]


def test_a_moment_without_a_score_does_not_interrupt_the_row():
    judge = Signatures(ability_loss=2, ability_margin=0.0)
    signatures = [
        fired(judge, 0, task=0.9),
        fired(judge, 1, task=0.8),
        fired(judge, 2),
        fired(judge, 3, task=0.8),
    ]
    assert signatures == [[], [], [], ["ability_loss"]]


def test_a_score_that_is_nan_is_lost_ability_at_once():
    """The scores of an earlier run are forgotten."""
    judge = Signatures(ability_loss=3)
    assert fired(judge, 0, task=0.8) == []
    assert fired(judge, 1, task=math.nan) == ["ability_loss"]
    judge.begin()
    assert judged(judge, [0.7, 0.69, 0.69, 0.69], error=0.04) == [False] * 4


def test_two_standard_errors_of_the_difference_are_no_loss():
    # 2 √(0.03² + 0.04²) = 0.1
    for score, lost in ((0.701, False), (0.699, True)):
        judge = Signatures(ability_loss=1)
        assert fired(judge, 0, task=0.8, error=0.03) == []
        assert (fired(judge, 1, task=score, error=0.04) == ["ability_loss"]) == lost


def test_without_a_standard_error_a_margin_is_needed():
    assert not any(judged(Signatures(ability_loss=1), [0.9, 0.1, 0.1]))
    assert judged(Signatures(ability_loss=1, ability_margin=0.0), [0.9, 0.89]) == [False, True]


def test_one_model_counts_once():
    """A moment is judged again if an alarm stops the run; the next part begins with the same model."""
    judge = Signatures(ability_loss=2, ability_margin=0.0)
    numbers = {TASK: 0.5}
    moments = [(0, 0), (0, 10), (0, 10), (1, 0), (1, 5)]
    judge.judge(Observation(count=0, total=10), {TASK: 0.9})
    alarms = [judge.judge(Observation(part=p, count=c, total=10), numbers) for p, c in moments]
    assert [bool(alarm) for alarm in alarms] == [False] * 4 + [True]


LOOKS, DOCUMENTS = 20, 300


def alarms_of(draw: Callable[[np.random.Generator], np.ndarray], runs: int = 1000) -> np.ndarray:
    """The look at which ability_loss fires in each simulated run, and `LOOKS` + 1 if it does not.

    `draw` returns shares of right answers of `DOCUMENTS` documents by look, from the first value on.
    """
    rng, looks = np.random.default_rng(0), []
    for _ in range(runs):
        judge, scores = Signatures(), draw(rng)
        errors = np.sqrt(scores * (1 - scores) / (DOCUMENTS - 1))
        pairs = enumerate(zip(scores, errors, strict=True))
        looks.append(next((i for i, (s, e) in pairs if fired(judge, i, task=s, error=e)), LOOKS + 1))
    return np.array(looks)


def test_noise_hardly_ever_fires():
    """At most 5 % of runs at a constant ability alarm within 20 looks: some 2 %; any falls: 49 %."""

    def anew(rng: np.random.Generator) -> np.ndarray:
        return rng.binomial(DOCUMENTS, 0.8, size=LOOKS + 1) / DOCUMENTS

    def for_good(rng: np.random.Generator) -> np.ndarray:
        """A tenth of the documents is answered again at each look, and keeps that answer."""
        answers, scores = rng.random(DOCUMENTS) < 0.8, []
        for _ in range(LOOKS + 1):
            scores.append(answers.mean())
            flipped = rng.random(DOCUMENTS) < 0.1
            answers = np.where(flipped, rng.random(DOCUMENTS) < 0.8, answers)
        return np.array(scores)

    assert all((alarms_of(draw) <= LOOKS).mean() <= 0.05 for draw in (anew, for_good))


@pytest.mark.parametrize(("fall", "within", "share"), [(0.15, 3, 0.95), (0.1, 10, 0.85)])
def test_a_true_fall_fires_within_a_few_looks(fall: float, within: int, share: float):
    """After the first value 0.8 falls; three looks is the soonest."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        chances = np.r_[0.8, np.full(LOOKS, 0.8 - fall)]
        return rng.binomial(DOCUMENTS, chances) / DOCUMENTS

    looks = alarms_of(draw)
    assert looks.min() == 3 and (looks <= within).mean() >= share


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
        ({"edits_fail": 1.0}, r"stage\.signatures\.edits_fail=1\.0"),
        ({"ability_loss": 0}, r"stage\.signatures\.ability_loss=0"),
        ({"ability_margin": -0.1}, r"stage\.signatures\.ability_margin=-0\.1"),
        ({"ability_margin": 5.0}, r"stage\.signatures\.ability_margin=5\.0"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(choice: dict[str, float], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        Signatures(**choice)


def test_signatures_judge_and_are_no_stage_that_measures():
    assert isinstance(Signatures(), Judge)
    assert not isinstance(Signatures(), Stage)


# --- edits that fail ------------------------------------------------------------------------------------


def failing(batches: Sequence[tuple[float, int]], **settings: float | None) -> list[int]:
    """The counts at which `edits_fail` fires over batches of these shares of success and sizes."""
    judge, count, at = Signatures(**settings), 0, []  # pyright: ignore[reportArgumentType]
    for share, size in batches:
        seen = Observation(count=count + size, before=count, total=10_000)
        at += [alarm.count for alarm in judge.judge(seen, {"edit/took/mean": share})]
        count += size
    return at


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (1, 1), (6, 6), (7, 7), (30, 50), (50, 50), (3, 200)])
def test_the_least_share_is_the_exact_interval_of_scipy(hits: int, trials: int):
    expected = stats.binomtest(hits, trials).proportion_ci(0.98, method="exact").low
    assert least_share(hits, trials) == pytest.approx(expected, abs=1e-12)


def test_seven_misses_in_a_row_are_surely_more_than_half():
    assert failing([(0.0, 1)] * 20) == [7]
    assert failing([(0.0, 6)]) == [] and failing([(0.0, 7)]) == [7]
    assert failing([(0.0, 1)] * 20, edits_fail=None) == []
    assert failing([(0.0, 1)] * 40, edits_fail=0.8) == [21]


def test_half_of_the_edits_may_miss():
    assert failing([(0.0, 1), (1.0, 1)] * 200) == []


def test_successes_before_the_last_fifty_edits_are_forgotten():
    """Of 50 edits, 34 misses are surely more than half: 33/50 has the least share 0.49."""
    (at,) = failing([(1.0, 1)] * 1000 + [(0.0, 1)] * 100)
    misses = next(n for n in range(50) if least_share(n, 50) > 0.5)
    assert at == 1000 + misses
    assert failing([(1.0, 1000), (0.0, 100)]) == [1100], "a batch is never split"


def test_a_batch_is_judged_once_even_if_its_row_is_judged_again():
    judge = Signatures()
    first = Observation(count=4, before=0, total=100)
    again = Observation(count=4, before=4, total=4)
    assert [judge.judge(each, {"edit/took/mean": 0.0}) for each in (first, again, again)] == [[], [], []]


def test_an_alarm_about_edits_says_how_many_took():
    (alarm,) = Signatures().judge(Observation(count=20, before=0, total=100), {"edit/took/mean": 0.1})
    assert alarm.sentence == (
        "edits_fail after 20 edits: edit/took/mean is 0.1 over 20 edits, surely below 0.5"
    )
    assert (alarm.key, alarm.value, alarm.threshold) == ("edit/took/mean", 0.1, 0.5)
