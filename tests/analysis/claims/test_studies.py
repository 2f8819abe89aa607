"""Measures of the experiments: they accept runs without their metrics and compare matching runs."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.claims.evidence import Evidence
from analysis.claims.registry import STUDIES
from analysis.claims.studies.damage import law
from analysis.claims.study import Study
from analysis.claims.verdicts import judge
from analysis.plots.charts.points import TrackChart
from analysis.results.collection import Collection, collect
from tests.fake_runs import WriteRun, write_rows


def study(name: str) -> Study:
    return next(each for each in STUDIES if each.name == name)


def intervention_with(*regularizers: str) -> dict[str, object]:
    nodes = {name: {"_target_": f"editors.{name}"} for name in regularizers}
    return {"name": "knowledge_edit", "editor": {"regularizers": nodes}}


def rewrite(folder: Path, change: dict[int, dict[str, float]]) -> None:
    """Set numbers of a run's rows, by count of edits."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_rows(folder, [line | change.get(int(line["edits"]), {}) for line in lines])


@pytest.mark.parametrize("each", STUDIES, ids=lambda each: each.name)
def test_measures_accept_runs_without_their_metrics(each: Study, collection: Collection):
    evidence = Evidence(collection)
    for claim in each.claims:
        assert list(judge(claim, evidence).cases.columns[:5]) == ["case", "mean", "low", "high", "seeds"]
    for table in each.tables:
        table.build(evidence)
    for drawing in each.drawings:
        drawing.build(evidence)


def histories(write_run: WriteRun, *runs: tuple[int, tuple[str, ...], int | None]) -> Evidence:
    """Runs of 200 edits by size of batch and regularizers, with the edits at which each collapses."""
    known = "edit/known/unedited"
    for batch, regularizers, at in runs:
        settings = {"intervention": intervention_with(*regularizers), "batch_size": batch}
        folder = write_run(
            editor="encore", editor_label="memit", name="history", edits=200, settings=settings
        )
        counts = range(0, 201, 10)
        rewrite(folder, {c: {known: 0.5 if at is not None and c >= at else 0.9} for c in counts})
    return Evidence(collect(folder.parent))  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.fixture
def collapsing(write_run: WriteRun) -> Evidence:
    """One by one the model collapses at 10 of 200 edits, at 20 with history, in batches of 100 never."""
    with_history = ("history",)
    return histories(
        write_run, (1, (), 10), (1, with_history, 20), (100, (), None), (100, with_history, None)
    )


@pytest.mark.parametrize("batch_at", [None, 110])
def test_a_sequence_too_short_to_last_four_times_as_long_is_undecided(
    batch_at: int | None, write_run: WriteRun
):
    evidence = histories(write_run, (1, (), 100), (100, (), batch_at))
    (claim,) = [one for one in study("history").claims if one.statement.startswith("Batches of 100")]
    assert judge(claim, evidence).verdict == "untested"


def test_a_sequence_that_never_collapses_lasted_at_least_its_length(collapsing: Evidence):
    by_words = {claim.statement: judge(claim, collapsing).cases for claim in study("history").claims}
    later = by_words["The history term puts the collapse off."]
    # two batches of 100 are no sequence that tells when
    assert later[["case", "mean"]].to_numpy().tolist() == [["batch_size=1", 1.0]]
    batches = by_words["Batches of 100 collapse far later than single edits."]
    assert batches["mean"].tolist() == [19.0]


def test_a_sequence_is_compared_with_one_batch_by_its_norm(write_run: WriteRun):
    norm = "norm/frobenius_ratio/edited"
    for batch, regularizers, ratio in ((10, (), 3.0), (10, ("history",), 3.9), (200, (), 4.0)):
        settings = {"intervention": intervention_with(*regularizers), "batch_size": batch}
        folder = write_run(editor="encore", name="history", edits=200, settings=settings)
        rewrite(folder, {200: {norm: ratio}})
    evidence = Evidence(collect(folder.parent))
    ends, nearer, *_ = (judge(claim, evidence) for claim in study("history").claims)
    assert ends.cases["mean"].tolist() == [pytest.approx(0.025)] and ends.verdict == "confirmed"
    assert nearer.cases["mean"].tolist() == [pytest.approx(0.025 - 0.25)] and nearer.verdict == "confirmed"


def test_both_of_encores_parts_are_compared_with_the_best_of_less(write_run: WriteRun):
    for regularizers, ability in (
        ((), 0.5), (("mpes",), 0.7), (("norm_constraint",), 0.5), (("mpes", "norm_constraint"), 0.6)
    ):  # fmt: skip
        settings = {"intervention": intervention_with(*regularizers)}
        folder = write_run(editor="rome", editor_label="memit", name="encore", settings=settings)
        rewrite(folder, {60: {"downstream/mean/acc": ability}})
    evidence = Evidence(collect(folder.parent))
    by_words = {claim.statement: judge(claim, evidence) for claim in study("encore").claims}
    best = by_words["With both, MEMIT keeps more downstream ability than with one or neither."]
    assert best.cases["mean"].tolist() == [pytest.approx(-0.1)] and best.verdict == "not seen"
    assert by_words["MPES saves editing time."].cases.empty, "a single pair of runs tells nothing of time"


def test_growth_that_is_the_same_in_every_run_counts_once(write_run: WriteRun):
    values = [0.9, 0.91, 0.9, 0.4, 0.41, 0.4]
    for _ in range(2):
        settings = {"editor": {"name": "growth", "direction": "scaled"}}
        folder = write_run(editor="rome", name="threshold", settings=settings, edits=6)
        rewrite(folder, {count: {"downstream/mean/acc": values[count - 1]} for count in range(1, 7)})
    alone = Evidence(collect(folder.parent))
    one = [judge(claim, alone).cases for claim in study("threshold").claims][1]
    shutil.rmtree(folder)
    only = [judge(claim, Evidence(collect(folder.parent))).cases for claim in study("threshold").claims][1]
    assert one[["mean", "low", "high"]].equals(only[["mean", "low", "high"]])


@pytest.fixture
def mixed(write_run: WriteRun) -> Evidence:
    """MEMIT with none, one and two regularizers; each cheaper, the second at the cost of edit success."""
    ends = {
        (): (4.0, 1.0, 0.5),
        ("rect",): (3.0, 0.98, 0.7),
        ("mpes",): (2.0, 0.5, 0.9),
        ("mpes", "rect"): (5.0, 1.0, 0.4),
    }
    for regularizers, (growth, success, ability) in ends.items():
        settings = {"intervention": intervention_with(*regularizers)}
        folder = write_run(editor="rome", editor_label="memit", name="mitigation", settings=settings)
        end = {
            "norm/frobenius_ratio/edited": growth,
            "edit/success/seen.rewrite": success,
            "downstream/mean/acc": ability,
        }
        rewrite(folder, {60: end})
    return Evidence(collect(folder.parent))  # pyright: ignore[reportPossiblyUnboundVariable]


def test_the_frontier_is_undominated_within_the_budget(mixed: Evidence):
    """No point of the frontier is beaten in both norm and ability at the same edit success."""
    frontier, alone = (table.build(mixed).set_index("regularizers") for table in study("mitigation").tables)
    assert frontier["frontier"].to_dict() == {"rect": "1", "none": "–"}
    assert alone["within"].to_dict() == {"mpes": False, "rect": True, "none": True}
    (drawing,) = study("mitigation").drawings
    chart = drawing.build(mixed)
    assert isinstance(chart, TrackChart)
    assert [track.marks for track in chart.tracks if track.label == "frontier"] == [["1"]]
    assert {track.label for track in chart.tracks} == {"none", "one", "two", "edit success lost", "frontier"}


def test_growth_and_its_price_are_drawn_of_what_grew_and_was_measured(write_run: WriteRun):
    for growth, ability in ((1.5, 0.3), (0.9, 0.2), (1.2, float("nan"))):
        folder = write_run(editor="rome", name="universality")
        rewrite(folder, {0: {"downstream/mean/acc": 0.8}})
        rewrite(folder, {60: {"norm/frobenius_ratio/edited": growth, "downstream/mean/acc": ability}})
    (drawing,) = study("universality").drawings
    chart = drawing.build(Evidence(collect(folder.parent)))  # pyright: ignore[reportPossiblyUnboundVariable]
    assert isinstance(chart, TrackChart)
    (track,) = chart.tracks
    assert (track.label, len(track.notes)) == ("knowledge_edit", 1)
    assert (track.x.mean, track.y.mean) == ([pytest.approx(0.5)], [pytest.approx(-0.5)])


def test_a_regularizer_is_judged_over_its_partners_within_the_budget(mixed: Evidence):
    cases = judge(study("mitigation").claims[0], mixed).cases.set_index("case")
    # mpes alone costs success: its pair is compared with rect alone
    assert cases["mean"].to_dict() == {"mpes": pytest.approx((5 - 3) / 3), "rect": pytest.approx((3 - 4) / 4)}
    assert cases["seeds"].tolist() == [1, 1]


def test_a_rescaling_without_effect_is_no_evidence(write_run: WriteRun):
    late = {"real": 1.3, "norm_rescaled": 1.3}
    for moved in (0.0, 0.2):
        for control, norm in late.items():
            norm += moved * (control == "norm_rescaled")
            settings = {"intervention": {"name": "replay", "control": {"name": control}}}
            folder = write_run(editor="rome", name=f"mechanism_{moved}", settings=settings)
            rewrite(folder, {60: {"activation/norm_ratio/late": norm, "probe/accuracy/mean": 0.9}})
        (claim,) = [one for one in study("mechanism").claims if one.statement.startswith("Rescaling")]
        cases = judge(claim, Evidence(collect(folder.parent))).cases  # pyright: ignore[reportPossiblyUnboundVariable]
        assert len(cases) == (moved > 0)


def test_controls_are_compared_with_the_real_edits_of_their_seed(write_run: WriteRun):
    for seed in (0, 1):
        for control, ability in (("real", 0.9), ("norm_kept", 0.34 + 0.02 * seed)):
            settings = {"intervention": {"name": "replay", "control": {"name": control}}}
            folder = write_run(editor="rome", name="mechanism", seed=seed, settings=settings)
            rewrite(folder, {60: {"downstream/mean/acc": ability}})
    evidence = Evidence(collect(folder.parent))
    (claim,) = [each for each in study("mechanism").claims if each.statement.startswith("Scaling W back")]
    finding = judge(claim, evidence)
    assert finding.cases["mean"].tolist() == [pytest.approx(-0.55)]
    assert finding.verdict == "not seen"


@pytest.mark.parametrize("follows", ["functional", "norm"])
def test_the_law_is_seen_where_damage_follows_the_energy_and_not_where_it_follows_the_norm(
    write_run: WriteRun, follows: str
):
    """Four kinds of drift whose energies and norms are in opposite orders."""
    for seed in (0, 1):
        for place, control in enumerate(("real", "random_direction", "scaled", "norm_kept"), start=1):
            settings = {"intervention": {"name": "replay", "control": {"name": control}}}
            folder = write_run(editor="rome", name="mechanism", seed=seed, settings=settings)
            numbers = {}
            for count in (0, 10, 30, 60):
                energy, grown = place * count / 100, (5 - place) * count / 10
                numbers[count] = {
                    "norm/functional/edited": energy,
                    "norm/frobenius_ratio/edited": 1 + grown,
                    "text/loss/held_out": 2 + (energy if follows == "functional" else grown) ** 2,
                }
            rewrite(folder, numbers)
    evidence = Evidence(collect(folder.parent))  # pyright: ignore[reportPossiblyUnboundVariable]
    orders, better = (
        judge(each, evidence) for each in study("mechanism").claims if "orders the damage" in each.statement
    )
    (table,) = (each.build(evidence) for each in law.TABLES)
    told = table[table["damage"] == "loss on text"].set_index("told by")["rank correlation"]
    expected = "functional drift" if follows == "functional" else "growth of the norm"
    assert told[expected] == pytest.approx(1) and told.abs().min() < 0.9
    wanted = "confirmed" if follows == "functional" else "not seen"
    assert (orders.verdict, better.verdict) == (wanted, wanted)
    charts = [drawing.build(evidence) for drawing in law.DRAWINGS if drawing.name != "reach"]
    assert all(isinstance(chart, TrackChart) and len(chart.tracks) == 4 for chart in charts)
