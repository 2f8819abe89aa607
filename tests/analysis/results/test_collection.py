"""Reading run folders: the tidy table, what is left out and said, means over seeds."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.results.collection import IDENTITY, Collection, _brief, collect
from analysis.results.run import MOMENT
from analysis.results.run_folder import RunFolder
from analysis.results.tables import alarm_order, best, differing_settings, per_series, summary
from analysis.statistics.intervals import over_seeds
from editors.errors import DataError
from tests.fake_runs import WriteRun, write_rows


def test_every_number_of_a_run_is_in_the_tidy_table_once(write_run: WriteRun):
    folder = write_run(editor="memit")
    metrics = collect(folder.parent).metrics
    assert list(metrics.columns) == [*IDENTITY, *MOMENT, "key", "value"]
    assert not metrics.duplicated(["run", "part", "count", "key"]).any()
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        rows = metrics[metrics["count"] == line["edits"]].set_index("key")["value"]
        assert rows.to_dict() == {key: value for key, value in line.items() if key not in ("step", "edits")}


def test_a_repeated_step_of_a_resumed_run_counts_once(write_run: WriteRun):
    """The later line is used."""
    folder = write_run(editor="memit", edits=10)
    rows, _ = RunFolder(folder).rows()
    write_rows(folder, [*rows, {"step": 10, "edits": 10, "norm/frobenius_ratio/edited": 7.0}])
    metrics = collect(folder.parent).metrics
    ratio = metrics[(metrics["key"] == "norm/frobenius_ratio/edited") & (metrics["count"] == 10)]
    assert ratio["value"].tolist() == [7.0]


def test_runs_that_differ_by_seed_alone_share_a_series(collection: Collection):
    runs = collection.runs
    assert runs["series"].tolist() == ["encore", "encore", "memit", "memit", "rome", "rome"]
    assert runs["seed"].tolist() == [0, 1, 0, 1, 0, 1]


def test_settings_that_follow_from_a_name_are_not_repeated(write_run: WriteRun):
    """As the second moments of one control; a setting that several runs of a name differ in stays."""
    for control in (
        {"name": "real"},
        {"name": "whitened", "ridge": 1e-6, "moments": {"tokens": 100_000}},
        {"name": "drift", "distance": 0.1},
        {"name": "drift", "distance": 0.2},
    ):
        folder = write_run(editor="rome", settings={"intervention": {"name": "replay", "control": control}})
    series = set(collect(folder.parent).runs["series"])  # pyright: ignore[reportPossiblyUnboundVariable]
    assert {label.partition(", ")[2] for label in series} == {
        "control.name=real, control.distance=–",
        "control.name=whitened, control.distance=–",
        "control.name=drift, control.distance=0.1",
        "control.name=drift, control.distance=0.2",
    }


def test_a_swept_setting_splits_the_series_and_is_named(write_run: WriteRun, tmp_path: Path):
    for weight in (1, 10):
        write_run(editor="encore", settings={"regularizer": {"norm_constraint": {"norm_weight": weight}}})
    collection = collect(tmp_path / "quick")
    assert sorted(collection.runs["series"]) == [
        "encore, norm_constraint.norm_weight=1",
        "encore, norm_constraint.norm_weight=10",
    ]
    assert differing_settings(collection)["setting"].tolist() == ["regularizer.norm_constraint.norm_weight"]


def test_a_setting_that_stands_at_two_places_is_named_once(write_run: WriteRun):
    for size in (1, 100):
        settings = {"batch_size": size, "intervention": {"name": "knowledge_edit", "batch_size": size}}
        folder = write_run(editor="rome", settings=settings)
    assert set(collect(folder.parent).runs["series"]) == {"rome, batch_size=1", "rome, batch_size=100"}


def test_numbers_are_read_from_a_gzipped_file_and_one_that_is_cut_is_told(write_run: WriteRun):
    folder = write_run(editor="rome")
    plain = collect(folder.parent).metrics
    text = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl.gz").write_bytes(gzip.compress(text))
    pd.testing.assert_frame_equal(collect(folder.parent).metrics, plain)
    (folder / "metrics.jsonl.gz").write_bytes(gzip.compress(text)[:-200])
    write_run(editor="memit")
    (broken,) = collect(folder.parent).unfinished
    assert broken.status == "unreadable" and "is cut short or broken" in broken.sentence


def test_a_torn_line_is_skipped_with_a_note(write_run: WriteRun):
    folder = write_run(editor="memit", edits=10)
    whole = collect(folder.parent).metrics
    with (folder / "metrics.jsonl").open("ab") as lines:
        lines.write(b'{"step": 11, "edits": 11, "edit/sc\xe2\x80')
    collection = collect(folder.parent)
    pd.testing.assert_frame_equal(collection.metrics, whole)
    assert collection.notes[:-1] == (
        f"Run {folder.name}: skipped 1 unreadable line(s) of metrics.jsonl, first line 12.",
    )


def test_failed_and_running_runs_are_listed_apart_with_their_sentence(collection: Collection):
    told = {run.status: run for run in collection.unfinished}
    assert told["failed"].sentence == "the norm is NaN after 17 edits; lower the step size"
    assert told["failed"].name == "quick"
    assert "still running" in told["running"].sentence
    assert not {run.run for run in collection.unfinished} & set(collection.metrics["run"])


@pytest.mark.parametrize("damage", ["{", '{"editor": "memit"}', "[1]", None])
def test_a_finished_run_with_a_broken_summary_is_listed_and_breaks_nothing(
    experiment: Path, damage: str | None
):
    summary_file = experiment / "memit-0-0" / "summary.json"
    summary_file.write_text(damage) if damage else summary_file.unlink()
    collection = collect(experiment)
    assert "unreadable" in {run.status for run in collection.unfinished}
    assert len(collection.runs) == 5


def test_a_run_without_its_configuration_still_counts(experiment: Path):
    (experiment / "memit-0-0" / "config.yaml").write_text("a: [")
    (experiment / "memit-1-0" / "config.yaml").write_text("a: [")
    collection = collect(experiment)
    assert len(collection.runs) == 6
    assert "Run memit-0-0: config.yaml cannot be read (ParserError)." in collection.notes


def test_the_same_run_in_two_experiments_counts_once(write_run: WriteRun, tmp_path: Path):
    write_run(editor="memit", name="A")
    write_run(editor="memit", name="B")
    write_run(editor="rome", name="B")
    collection = collect(tmp_path / "A", tmp_path / "B")
    assert collection.runs["run"].tolist() == ["memit-0-0", "rome-0-0"]
    assert collection.notes[:-1] == ("Run memit-0-0 of B is in several folders and is counted once.",)


def test_a_folder_without_a_finished_run_is_refused_in_a_sentence(write_run: WriteRun, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no run yet; start one with"):
        collect(tmp_path / "empty")
    with pytest.raises(DataError, match="absent is not a folder"):
        collect(tmp_path / "absent")
    run = write_run(editor="memit")
    assert collect(run).runs["run"].tolist() == collect(run.parent).runs["run"].tolist()
    (run / "DONE").rename(run / "FAILED")
    (run / "FAILED").write_text("λn is -1\n")
    with pytest.raises(DataError, match=r"no finished run among 1.*failed: λn is -1"):
        collect(run.parent)


def test_interval_over_seeds_agrees_with_a_hand_calculation():
    values = pd.DataFrame({"series": "a", "value": [1.0, 2.0, 4.0]})
    row = over_seeds(values, by=("series",)).iloc[0]
    # mean 7/3, s = √(7/3), t(0.975, 2) = 4.30265 (any t table)
    half = 4.30265 * np.sqrt(7 / 3) / np.sqrt(3)
    assert row[["mean", "low", "high", "seeds"]].tolist() == pytest.approx(
        [7 / 3, 7 / 3 - half, 7 / 3 + half, 3], rel=1e-5
    )


def test_the_interval_of_one_seed_is_its_value():
    """And the interval of equal seeds has no width."""
    values = pd.DataFrame({"series": ["a", "b", "b"], "value": [0.5, 0.25, 0.25]})
    for log in (False, True):
        table = over_seeds(values, by=("series",), log=log)
        assert np.allclose(table[["mean", "low", "high"]], [[0.5] * 3, [0.25] * 3])


def test_the_logarithmic_interval_is_positive_and_scales_with_its_values():
    values = pd.DataFrame({"series": "a", "value": [1.0, 100.0]})
    one = over_seeds(values, by=("series",), log=True).iloc[0]
    ten = over_seeds(values.assign(value=10 * values["value"]), by=("series",), log=True).iloc[0]
    assert one["mean"] == pytest.approx(10) and one["low"] > 0
    assert ten[["mean", "low", "high"]].tolist() == pytest.approx(
        (10 * one[["mean", "low", "high"]]).tolist()
    )


def test_summary_has_a_row_per_run_with_the_last_measured_scores(written: Path, collection: Collection):
    table = summary(collection).set_index("run")
    assert len(table) == 6
    metrics = json.loads((written / "memit-1-0" / "summary.json").read_text())["metrics"]
    row = table.loc["memit-1-0"]
    assert (row["editor"], row["seed"], row["edits"], row["seconds"]) == ("memit", 1, 60, 32.5)
    assert row["es"] == metrics["edit/success/seen.rewrite"]
    assert row["retention"] == metrics["edit/success/first50.rewrite"]
    assert row["known_unedited"] == metrics["edit/known/unedited"]
    assert row["norm_ratio"] == metrics["norm/frobenius_ratio/edited"]
    assert row["activation_late"] == metrics["activation/norm_ratio/late"]
    assert row["probe"] == metrics["probe/accuracy/mean"]
    assert row["perplexity"] == metrics["text/perplexity/held_out"]
    assert row["entropy"] == metrics["generation/entropy/mean"]
    fired = metrics["alarm/norm_growth/at"], metrics["alarm/activation_shift/at"]
    assert row["alarms"] == "norm_growth after {:.0f} edits, activation_shift after {:.0f} edits".format(
        *fired
    )
    assert table.loc["encore-0-0", "alarms"] == "" and table.loc["encore-0-0", "stopped"] == ""


def test_scores_that_no_run_measured_stay_empty(write_run: WriteRun):
    folder = write_run(editor="memit", edits=3)
    lines = [{"step": s, "edits": s, "norm/frobenius_ratio/edited": 1.0 + s} for s in range(4)]
    write_rows(folder, lines)
    collection = collect(folder.parent)
    assert summary(collection)["es"].isna().all()
    table = per_series(collection).set_index("editor")
    assert "ES" not in table.columns and table.loc["memit", "norm ratio"] == "4.000"


def test_the_unedited_model_has_the_scores_of_facts_before_they_are_edited(write_run: WriteRun):
    folder = write_run(editor="memit", edits=3)
    before = {"edit/success/before.rewrite": 0.25, "edit/success/before.neighbour": 0.75}
    after = {"edit/success/seen.rewrite": 1.0}
    write_rows(folder, [{"step": 0, "edits": 0} | before, {"step": 3, "edits": 3} | after])
    table = per_series(collect(folder.parent)).set_index("editor")
    assert table["ES"].tolist() == ["0.250", "1.000"] and table["NS"].tolist() == ["0.750", "–"]


def test_the_printed_table_gives_the_range_of_two_seeds(collection: Collection):
    """And the values of the unedited model."""
    table = per_series(collection).set_index("editor")
    assert table.index.tolist() == ["unedited", "encore", "memit", "rome"]
    assert table.loc["unedited", ["edits", "ES", "norm ratio"]].tolist() == ["0", "–", "1.000"]
    assert table["seeds"].tolist() == ["–", "2", "2", "2"]
    values = summary(collection).query("series == 'rome'")["known_unedited"]
    assert table.loc["rome", "never edited"] == f"{values.min():.3f}–{values.max():.3f}"


def test_the_printed_table_gives_the_interval_of_three_seeds(write_run: WriteRun):
    for seed in range(3):
        folder = write_run(editor="rome", seed=seed).parent
    values = summary(collect(folder))["known_unedited"]
    half = stats.t.ppf(0.975, 2) * values.std() / 3**0.5
    table = per_series(collect(folder)).set_index("editor")
    assert table.loc["rome", "never edited"] == f"{values.mean():.3f} ± {half:.3f}"


def test_the_best_mean_is_that_of_the_better_direction(collection: Collection):
    means = summary(collection).groupby("series")[["known_unedited", "perplexity"]].mean()
    marked = best(collection)
    assert marked["never edited"] == ("↑", {means["known_unedited"].idxmax()})
    assert marked["perplexity"] == ("↓", {means["perplexity"].idxmin()})
    assert "norm ratio" not in marked  # neither direction is better


def test_alarm_order_counts_runs_and_ranks_within_each_run(write_run: WriteRun):
    fired = {
        0: {"norm_growth": 20, "probe_collapse": 10},
        1: {"norm_growth": 20, "probe_collapse": 20},
        2: {},
    }
    for seed, alarms in fired.items():
        folder = write_run(editor="encore", seed=seed, edits=30)
        with (folder / "metrics.jsonl").open("a") as lines:
            for signature, at in alarms.items():
                lines.write(json.dumps({"edits": at, f"alarm/{signature}/edits": at}) + "\n")
    write_run(editor="memit", edits=30)
    table = alarm_order(collect(folder.parent)).set_index(["series", "signature"])
    assert table.loc[("encore", "probe_collapse")].to_dict() == {
        "runs": 3,
        "fired": 2,
        "at": 15,
        "unit": "edits",
        "rank": 1.25,
    }
    assert table.loc[("encore", "norm_growth"), ["fired", "at", "rank"]].tolist() == [2, 20.0, 1.75]
    never = table.loc[("memit", "probe_collapse")]
    assert never["fired"] == 0 and np.isnan(never["at"]) and np.isnan(never["rank"])


def test_a_run_without_an_editor_is_named_after_its_intervention(write_run: WriteRun):
    folder = write_run(editor="memit", edits=10)
    summary_file = folder / "summary.json"
    named = json.loads(summary_file.read_text()) | {"editor": "", "intervention": "lora"}
    summary_file.write_text(json.dumps(named))
    assert collect(folder.parent).runs["series"].tolist() == ["lora"]


def test_an_unreadable_alarm_makes_the_run_unreadable(experiment: Path):
    """The other runs of the experiment are still read."""
    summary_file = experiment / "rome-0-0" / "summary.json"
    summary_file.write_text(json.dumps(json.loads(summary_file.read_text()) | {"alarms": ["norm_growth"]}))
    collection = collect(experiment)
    assert "rome-0-0" not in set(collection.runs["run"])


def test_numbers_of_a_series_have_as_many_digits_as_keep_them_apart():
    given = {"0.20563118798739302", "195.66295204722921", "0.2056311", "memit", "8"}
    assert _brief(given) == {
        "0.20563118798739302": "0.2056312", "195.66295204722921": "195.663", "0.2056311": "0.2056311",
        "memit": "memit", "8": "8",
    }  # fmt: skip
    assert _brief({"0.20563118798739302", "–"}) == {"0.20563118798739302": "0.206", "–": "–"}
