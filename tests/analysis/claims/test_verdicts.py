"""Verdicts follow from cases and their intervals alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.claims.evidence import Evidence, changes, effects, ends, steadiness
from analysis.claims.verdicts import Claim, Side, is_short, judge
from analysis.results.collection import collect
from tests.fake_runs import WriteRun, write_rows

NAN = float("nan")


@pytest.fixture
def evidence(write_run: WriteRun) -> Evidence:
    """One editor with and without a regularizer, two seeds each."""
    for seed in (0, 1):
        for editor, chosen in (("rome", {}), ("encore", {"mpes": {"_target_": "editors.MPES", "hits": 4}})):
            settings = {"intervention": {"name": "knowledge_edit", "editor": {"regularizers": chosen}}}
            write_run(editor=editor, editor_label="memit", seed=seed, settings=settings)
    return Evidence(collect(write_run(editor="rome", editor_label="memit", seed=2).parent))


def claim(repeats: dict[str, list[float]], side: Side = "above", threshold: float = 0.0) -> Claim:
    rows = [(case, value) for case, values in repeats.items() for value in values]
    return Claim(
        statement="it grows", source="a paper", reported="always", quantity="growth", side=side,
        threshold=threshold, measure=lambda _: pd.DataFrame(rows, columns=["case", "value"]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("repeats", "side", "verdict"),
    [
        ({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1]}, "above", "confirmed"),
        ({"a": [1.0, 1.1, 0.9], "b": [-2.0, -2.1]}, "above", "partly"),
        ({"a": [5.0, -4.0, 0.5]}, "above", "untested"),
        ({"a": [-5.0, 4.0, -0.5]}, "above", "untested"),
        ({"a": [5.0, -4.0, 0.5], "b": [-1.0, -1.1]}, "above", "not seen"),
        ({"a": [-1.0, -1.1], "b": [-2.0]}, "above", "not seen"),
        ({"a": [-1.0, -1.01, -0.99]}, "below", "confirmed"),
        ({"a": [1.0]}, "above", "confirmed"),
        ({"a": [5.0, -4.0, 0.5], "b": [1.0, 1.1]}, "above", "partly"),
        ({"a": [0.0, 0.0]}, "above", "not seen"),
        ({}, "above", "untested"),
        ({"a": [1.0, 1.1, NAN]}, "above", "not seen"),
        ({"a": [NAN]}, "above", "not seen"),
        ({"a": [1.0, float("inf")], "b": [1.0]}, "above", "partly"),
    ],
)
def test_the_verdict_is_that_of_the_intervals(
    repeats: dict[str, list[float]], side: Side, verdict: str, evidence: Evidence
):
    finding = judge(claim(repeats, side), evidence)
    assert finding.verdict == verdict
    assert set(finding.cases["case"]) == set(repeats)
    assert not (finding.cases["holds"].astype(bool) & finding.cases["against"].astype(bool)).any()


def test_an_effect_smaller_than_what_counts_is_on_neither_side(evidence: Evidence):
    small = {"once": [-0.04], "wide": [0.004, 0.02], "large": [0.02, 0.02], "far": [0.06]}
    cases = judge(replace(claim(small), smallest_effect=0.01), evidence).cases.set_index("case")
    assert cases["holds"].to_dict() == {"once": False, "wide": False, "large": True, "far": True}
    assert not cases["against"].any()
    assert judge(claim({"small": [-0.004]}), evidence).cases["against"].all()
    given = replace(claim({"once": [0.004]}, "below", 0.0), smallest_effect_alone=0.01)
    assert not judge(given, evidence).cases["against"].any()


@pytest.mark.parametrize(("side", "sign", "threshold"), [("above", 1, 0.0), ("below", -1, 2.0)])
def test_repeats_that_all_fall_short_of_what_counts_speak_against_it(
    side: Side, sign: int, threshold: float, evidence: Evidence
):
    repeats = {"nothing": [threshold] * 2, "little": [threshold + 0.004 * sign, threshold + 0.0041 * sign]}
    finding = judge(replace(claim(repeats, side, threshold), smallest_effect=0.01), evidence)
    assert finding.cases["against"].all() and finding.verdict == "not seen"
    cases = judge(replace(claim(repeats, side, threshold), smallest_effect=0.001), evidence).cases.set_index(
        "case"
    )
    assert cases["against"].to_dict() == {"nothing": True, "little": False}


def test_what_is_always_so_is_refuted_by_one_repeat(evidence: Evidence):
    shares = {"all": [1.0, 1.0], "all but one": [1.0, 1.0, 0.98], "lost": [1.0, NAN]}
    cases = judge(replace(claim(shares, threshold=0.999), always=True), evidence).cases.set_index("case")
    assert cases["holds"].to_dict() == {"all": True, "all but one": False, "lost": False}
    assert cases["against"].to_dict() == {"all": False, "all but one": True, "lost": False}
    assert (cases["low"]["all but one"], cases["high"]["all but one"]) == (0.98, 1.0)


def test_a_ratio_has_a_geometric_mean_and_must_be_positive(evidence: Evidence):
    grows = replace(claim({"a": [0.5, 8.0], "b": [2.0, 2.0], "c": [2.0, 0.0]}, threshold=1.0), ratio=True)
    cases = judge(grows, evidence).cases.set_index("case")
    assert cases["mean"].tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert (cases["low"] > 0).all()
    assert cases["holds"].to_dict() == {"a": False, "b": True, "c": False}
    assert cases["broken"].to_dict() == {"a": 0, "b": 0, "c": 1}


def test_a_measure_may_bring_its_own_interval(evidence: Evidence):
    rows = pd.DataFrame(
        [("a", 2.0, 1.5, 2.5, 3), ("b", 5.0, 5.0, float("inf"), 3), ("c", 2.0, 1.0, 4.0, 3)],
        columns=["case", "value", "low", "high", "seeds"],
    )
    below = replace(claim({}, "below", 3.0), measure=lambda _: rows)
    cases = judge(below, evidence).cases.set_index("case")
    assert cases["holds"].to_dict() == {"a": True, "b": False, "c": False}
    assert cases["against"].to_dict() == {"a": False, "b": True, "c": False}
    assert cases["seeds"].tolist() == [3, 3, 3]


def test_an_interval_about_the_threshold_is_neither_for_nor_against(evidence: Evidence):
    cases = judge(claim({"a": [5.0, -4.0, 0.5], "b": [-1.0, -1.1]}), evidence).cases.set_index("case")
    assert cases["against"].to_dict() == {"a": False, "b": True}


def test_ends_changes_and_steadiness_are_by_run(evidence: Evidence):
    key = "norm/frobenius_ratio/edited"
    last = ends(key, ("regularizers",), minus=1.0)(evidence)
    assert sorted(last["case"]) == ["", "", "", "mpes", "mpes"]
    assert (changes(key, ("seed",))(evidence)["value"] > 0).all()
    assert (steadiness(key)(evidence)["value"] == 1).all()


def test_a_regularizer_is_compared_with_the_run_that_differs_by_it_alone(evidence: Evidence):
    last = evidence.last("norm/frobenius_ratio/edited")
    effect = evidence.effect(last, "mpes")
    assert len(effect) == 2 and (effect < -10).all()  # 40 times without, 1.16 times with it
    relative = evidence.effect(last, "mpes", relative=True)
    assert relative.between(-1, -0.9).all()
    # seed 2 has no partner
    assert set(evidence.runs.loc[effect.index, "seed"]) == {0, 1}


def test_a_last_value_that_is_no_number_is_not_replaced_by_an_earlier_one(write_run: WriteRun):
    key = "norm/frobenius_ratio/edited"
    folders = [write_run(editor="rome", seed=seed) for seed in (0, 1)]
    lines = (folders[0] / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    write_rows(folders[0], [*rows[:-1], rows[-1] | {key: NAN}])
    evidence = Evidence(collect(folders[0].parent))
    grows = replace(claim({}), measure=ends(key, minus=1.0))
    finding = judge(grows, evidence)
    assert finding.verdict == "not seen"
    assert finding.cases[["seeds", "broken"]].to_numpy().tolist() == [[1, 1]]
    assert (steadiness(key)(evidence)["value"] < 1).sum() == 1


def test_nothing_appears_whole_where_a_run_failed(evidence: Evidence, write_run: WriteRun):
    grows = claim({"a": [1.0, 1.0]})
    assert judge(grows, evidence).verdict == "confirmed"
    failed = write_run(editor="rome", seed=9)
    (failed / "DONE").unlink()
    (failed / "FAILED").write_text("out of memory")
    assert judge(grows, Evidence(collect(failed.parent))).verdict == "partly"


def test_partners_are_cases_of_their_own_and_no_repeats(write_run: WriteRun):
    for beside in ([], ["history"]):
        for chosen in ([], ["mpes"]):
            nodes = {name: {"_target_": f"editors.{name}"} for name in (*beside, *chosen)}
            settings = {"intervention": {"name": "knowledge_edit", "editor": {"regularizers": nodes}}}
            folder = write_run(editor="rome", editor_label="memit", settings=settings)
    evidence = Evidence(collect(folder.parent))
    assert len(evidence.effect(evidence.last("edit/score/seen"), "mpes")) == 2
    cases = effects("edit/score/seen", "mpes")(evidence)["case"]
    assert sorted(cases) == ["", "beside history"]


def test_a_regularizer_that_no_run_has_is_compared_with_nothing(evidence: Evidence):
    assert evidence.effect(evidence.last("edit/score/seen"), "rect").empty


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.5, 0.52, 0.51], "confirmed"),  # the source's number
        ([0.9, 0.91, 0.89], "not seen"),  # half of the effect, 0.75, and the threshold are excluded
        ([0.7, 0.95, 0.8], "untested"),  # neither is
        ([0.79, 0.795, 0.79], "untested"),  # on the claimed side, but too near to the threshold
    ],
)
def test_half_of_the_effect_of_the_source_has_to_be_excluded(
    values: list[float], verdict: str, evidence: Evidence
):
    halves = replace(claim({"late": values}, "below", 0.8), source_value=0.5, null=1.0, smallest_effect=0.01)
    assert judge(halves, evidence).verdict == verdict


def test_an_effect_short_of_the_threshold_is_undecided_beyond_half_of_the_effect(evidence: Evidence):
    doubles = replace(claim({"a": [1.8, 1.81]}, threshold=2.0), source_value=2.5, null=1.0, ratio=True)
    assert judge(doubles, evidence).verdict == "untested"  # half of the way from 1 to 2.5 is 1.58
    low = replace(doubles, measure=claim({"a": [1.2, 1.21]}).measure)
    assert judge(low, evidence).verdict == "not seen"


def test_a_run_shorter_than_the_source_refutes_nothing_and_has_a_trend(evidence: Evidence):
    key = "norm/frobenius_ratio/edited"
    only = evidence.of_editor(evidence.last(key), "memit").index[:1]

    def measure(runs: Evidence) -> pd.DataFrame:
        return pd.DataFrame({"case": "memit", "value": runs.last(key)[only]})

    grows = replace(claim({}, threshold=1e6), measure=measure, source_length=evidence.length)
    finding = judge(grows, evidence)
    assert (finding.verdict, finding.is_short, finding.trend) == ("not seen", False, None)
    finding = judge(replace(grows, source_length=10 * evidence.length), evidence)
    assert (finding.verdict, finding.is_short) == ("untested", True)
    assert not is_short(1980, replace(grows, source_length=2000))
    assert is_short(1979, replace(grows, source_length=2000))
    now, middle = (
        float(measure(each)["value"].iloc[0]) for each in (evidence, evidence.until(finding.length // 2))
    )
    assert finding.trend == pytest.approx((now - middle) / (finding.length - finding.length // 2))
    assert finding.reach == pytest.approx(finding.length + (1e6 - now) / finding.trend)
    away = replace(grows, side="below", threshold=0.0, source_length=10 * evidence.length)
    assert judge(away, evidence).reach is None


def test_what_could_have_been_seen_is_wider_than_the_interval(evidence: Evidence):
    cases = judge(
        replace(claim({"three": [1.0, 1.1, 0.9], "one": [2.0]}), smallest_effect=0.01), evidence
    ).cases
    half = (cases["high"] - cases["low"])[0] / 2
    assert half < cases["detectable"][0] < 2 * half
    assert cases["detectable"][1] == pytest.approx(0.05)  # a single repeat: the distance that counts


def test_p_is_that_of_students_test_of_the_threshold(evidence: Evidence):
    from scipy import stats

    values = [1.0, 1.4, 1.9]
    finding = judge(claim({"three": values, "one": [2.0]}, threshold=0.5), evidence)
    expected = stats.ttest_1samp(values, 0.5).pvalue
    assert finding.cases["p"][0] == pytest.approx(expected) and np.isnan(finding.cases["p"][1])
    assert np.isnan(finding.p)  # one of the cases that hold has none
    assert judge(claim({"three": [1.0, 1.1, 0.9]}), evidence).p < 0.05
