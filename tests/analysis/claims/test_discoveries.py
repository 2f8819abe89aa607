"""Sentences about the runs: their numbers are those of the runs, and their words follow from these."""

import json
from pathlib import Path

import pytest

from analysis.claims.discoveries import (
    DISCOVERIES,
    early_signs,
    forgets_at_a_small_norm,
    growth_is_pythagorean,
    norm_alone,
    what_orders_damage,
    what_reaches_the_end,
)
from analysis.claims.evidence import Evidence
from analysis.claims.registry import STUDIES
from analysis.claims.studies.damage import law
from analysis.results.collection import collect
from tests.fake_runs import WriteRun, write_rows

REACH = "norm/functional_reach/edited"
RATIO, DRIFT, KNOWN, LOSS = (
    "norm/frobenius_ratio/edited", "norm/functional/edited", "edit/known/unedited", "text/loss/held_out",
)  # fmt: skip


def replayed(write_run: WriteRun, control: str, rows: list[dict[str, float]]) -> Path:
    """A run of a control with these numbers, one row each ten edits."""
    settings = {"intervention": {"name": "replay", "control": {"name": control}}}
    folder = write_run(editor="memit", name="mechanism", settings=settings)
    write_rows(folder, [{"step": n, "edits": 10 * n} | row for n, row in enumerate(rows)])
    return folder


def runs(folder: Path) -> Evidence:
    return Evidence(collect(folder.parent))


def series(damages: list[float], ratios: list[float], drifts: list[float]) -> list[dict[str, float]]:
    return [
        {RATIO: ratio, DRIFT: drift, KNOWN: 1 - damage, LOSS: 3 + damage}
        for damage, ratio, drift in zip(damages, ratios, drifts, strict=True)
    ]


@pytest.mark.parametrize(
    ("follows", "words"),
    [
        ("drift", "Among controls of one sequence, functional drift explains more"),
        ("norm", "Functional drift does not tell the damage better"),
    ],
)
def test_it_is_said_what_the_damage_of_controls_follows(write_run: WriteRun, follows: str, words: str):
    damages, others = [0.0, 0.1, 0.3, 0.6], [0.0, 0.5, 0.2, 0.4]
    for control in ("real", "scaled"):
        drifts, growth = (damages, others) if follows == "drift" else (others, damages)
        folder = replayed(write_run, control, series(damages, [1 + each for each in growth], drifts))
    assert what_orders_damage(runs(folder)).startswith(f"**{words}")


def test_controls_of_the_same_length_are_told_with_their_numbers(write_run: WriteRun):
    for control, ratio, left in (
        ("real", 9.0, 0.5),
        ("whitened_direction", 9.5, 1.0),
        ("norm_kept", 1.0, 0.0),
    ):
        folder = replayed(write_run, control, series([0.0, 1 - left], [1.0, ratio], [0.0, 1.0]))
    sentence = norm_alone(runs(folder))
    assert sentence.startswith("**Steps of the same length can cost nothing")
    assert "real edits, 9 times the norm, 0.5;" in sentence
    assert sentence.endswith("such steps where keys are rare, 9.5 times the norm, 1.")


def test_they_are_told_otherwise_where_the_whitened_steps_cost_something(write_run: WriteRun):
    for control, left in (("real", 0.5), ("whitened_direction", 0.4), ("norm_kept", 0.0)):
        folder = replayed(write_run, control, series([0.0, 1 - left], [1.0, 9.0], [0.0, 1.0]))
    assert norm_alone(runs(folder)).startswith("**What steps of one length cost")


def test_they_are_compared_while_the_real_edits_leave_something(write_run: WriteRun):
    """And the title says so where keeping the norm saves nothing."""
    for control, left in (("real", 0.4), ("whitened_direction", 0.7), ("norm_kept", 0.35)):
        damages = [0.0, 1 - left, 1.0]
        folder = replayed(write_run, control, series(damages, [1.0, 1.5, 2.5], [0.0, 1.0, 2.0]))
    sentence = norm_alone(runs(folder))
    assert sentence.startswith("**Keeping the norm saved none") and "after 10 edits (one seed)" in sentence
    assert "real edits, 1.5 times the norm, 0.4;" in sentence


def test_nothing_is_said_of_a_model_that_knew_hardly_anything(write_run: WriteRun):
    for control in ("real", "whitened_direction", "norm_kept"):
        folder = replayed(write_run, control, series([0.95, 0.96], [1.0, 1.5], [0.0, 1.0]))
    assert norm_alone(runs(folder)) == ""


def test_controls_that_hold_the_norm_are_told_apart_and_rounding_has_no_rank(write_run: WriteRun):
    """Without them the norm explains what it does among the others; their own noise explains nothing."""
    damages, drifts = [0.0, 0.2, 0.4, 0.8], [0.0, 0.1, 0.2, 0.4]
    replayed(write_run, "real", series(damages, [1.0, 1.1, 1.2, 1.4], drifts))
    noise = [1.0, 1 + 1e-8, 1 + 2e-8, 1 + 4e-8]
    folder = replayed(write_run, "norm_kept", series(damages, noise, drifts))
    evidence = runs(folder)
    assert set(law.points(evidence).xs(10, level="count")[law.NORM]) == {0.0, 0.1}
    explained = law.table(evidence).set_index(["damage", "told by"])[law.EXPLAINED]
    assert explained["loss on text", law.NORM] < 0.5
    assert "(1 without controls that hold it)" in what_orders_damage(evidence)


def test_growth_names_the_editors_at_its_ends(write_run: WriteRun):
    for editor, rho in (("rome", -0.1), ("memit", 0.2)):
        folder = write_run(editor=editor)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        write_rows(folder, [*lines[:-1], lines[-1] | {"norm/growth_rho/edited": rho}])
    sentence = growth_is_pythagorean(runs(folder))
    assert sentence.startswith("**Growth is mostly the sum of squares") and "2 of 2 editors" in sentence
    assert "-0.1 (ROME) to 0.2 (MEMIT)" in sentence


@pytest.mark.parametrize(
    ("drifts", "words"), [((0.1, 0.5), "Early in a sequence"), ((0.5, 0.1), "What an early")]
)
def test_an_early_number_that_tells_the_end_is_named(
    write_run: WriteRun, drifts: tuple[float, float], words: str
):
    for name, left, ratio, drift in zip(("kept", "lost"), (0.9, 0.1), (9.0, 2.0), drifts, strict=True):
        folder = write_run(editor="memit", editor_label=name, name="alarms")
        moments = [(0, 1.0, 1.0, 0.0), (10, 1.0, ratio, drift), (80, left, ratio, drift)]
        write_rows(folder, [{"edits": n, KNOWN: known, RATIO: r, DRIFT: d} for n, known, r, d in moments])
    assert early_signs(runs(folder)).startswith(f"**{words}")


@pytest.mark.parametrize(
    ("ratio", "left", "words"),
    [
        (1.02, 0.1, "A language model can lose most of what it knew while its norms hardly move"),
        (1.02, 0.9, "What edits cost at the smallest growth"),
        (1.5, 0.1, "What edits cost at the smallest growth"),
    ],
)
def test_the_smallest_growth_is_told_with_what_it_cost(
    write_run: WriteRun, ratio: float, left: float, words: str
):
    for editor, grows in (("memit", 3.0), ("rome", ratio)):
        folder = write_run(editor=editor, name="collapse", edits=40)
        write_rows(
            folder,
            [
                {"edits": 0, RATIO: 1.0, KNOWN: 1.0, LOSS: 3.0, DRIFT: 0.0},
                {"edits": 40, RATIO: grows, KNOWN: left, LOSS: 3.5, DRIFT: 0.7},
            ],
        )
    sentence = forgets_at_a_small_norm(runs(folder))
    assert sentence.startswith(f"**{words}")
    assert "40 edits by ROME" in sentence and "0.5 nats more loss" in sentence
    assert f"{ratio:g} times the norm, {left:g} of the known facts left" in sentence


@pytest.mark.parametrize(
    ("drifts", "reaches", "words"),
    [
        ((0.1, 0.2, 0.3, 0.4), (4, 1, 3, 2), "Functional drift puts different editors in the order"),
        ((4, 1, 3, 2), (0.1, 0.2, 0.3, 0.4), "Functional drift does not put"),
        ((4, 1, 3, 2), (0.1, 0.4, 0.2, 0.3), "Neither functional drift nor its part"),
    ],
)
def test_the_first_sentence_says_whether_functional_drift_orders_the_loss_by_different_editors(
    write_run: WriteRun, drifts: tuple[float, ...], reaches: tuple[float, ...], words: str
):
    lost, ratios = (0.1, 0.3, 0.5, 0.7), (1.4, 1.1, 1.3, 1.2)
    for number, editor in enumerate(("memit", "rome")):
        folder = write_run(editor=editor, name="collapse", edits=40)
        rows = [{"edits": 0, RATIO: 1.0, KNOWN: 1.0, LOSS: 3.0, DRIFT: 0.0, REACH: 0.0}]
        for at in (number, number + 2):
            numbers = {RATIO: ratios[at], KNOWN: 1 - lost[at], DRIFT: drifts[at], REACH: reaches[at]}
            rows.append({"edits": 10 * at + 10, LOSS: 3.5} | numbers)
        write_rows(folder, rows)
    sentence = what_reaches_the_end(runs(folder))
    assert sentence.startswith(f"**{words}")
    assert "sequences by 2 editors (one seed, 4 measurements)" in sentence
    assert DISCOVERIES[0].sentence is what_reaches_the_end


def test_a_sentence_without_its_numbers_is_left_out(write_run: WriteRun):
    evidence = runs(write_run(editor="memit", name="mechanism"))
    assert {each.sentence(evidence) for each in DISCOVERIES} == {""}


def test_every_sentence_is_about_an_experiment_of_the_page():
    assert {each.experiment for each in DISCOVERIES} <= {study.name for study in STUDIES}
