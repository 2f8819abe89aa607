"""Runs that keep their updates, and runs that apply those again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from editors.errors import ConfigError, DataError
from editors.update_files import read_updates
from pipeline.build import build
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved
from pipeline.launch import launch
from pipeline.runs.input_digests import input_digests
from pipeline.runs.layout import run_of
from tests.pipeline.checkpoints.test_resume import Cut, at_row, cut

Composed = Callable[..., DictConfig]
STAGES = ["stage=[norms,efficacy]", "stage.efficacy.cadence.every=1"]
KEEPING = ["intervention.keep_updates=true", "edits=4", *STAGES]
CONTROLS = (
    "none",
    "random_direction",
    "norm_kept",
    "drift_kept",
    "whitened_direction",
    "scaled",
    "grow_all",
    "rotated",
    "spread",
    "norm_rescaled",
)
FOLLOWING = ("norm/", "edit/success", "edit/score", "edit/magnitude")


def recorded(composed: Composed, root: Path, *more: str) -> Path:
    """The folder of a run that kept its updates."""
    launch(composed(*KEEPING, "name=real", *more), root)
    (folder,) = (root / "real").glob("*-*/")
    return folder


def replaying(composed: Composed, root: Path, run: Path, *more: str) -> Path:
    """The folder of its replay."""
    launch(composed("intervention=replay", f"intervention.source={run}", "name=again", *STAGES, *more), root)
    return Path(max((root / "again").glob("*-*/"), key=lambda path: path.stat().st_mtime))


def rows(folder: Path, areas: tuple[str, ...] = FOLLOWING) -> list[dict[str, float]]:
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key.startswith(areas)} for row in every]


def content(folder: Path) -> list[tuple[tuple[str, ...], dict[str, list]]]:
    """What a run kept, whatever its pieces."""
    return [
        (batch.facts, {str(site): delta.dense().tolist() for site, delta in batch.update.items()})
        for batch in read_updates(folder / "updates")
    ]


def test_keeping_updates_changes_no_number_and_no_fingerprint(composed: Composed, tmp_path: Path):
    kept = rows(recorded(composed, tmp_path))
    plain = composed("edits=4", *STAGES)
    without = resolved(plain.copy())
    del without["intervention"]["keep_updates"]  # as before there was such a key
    assert fingerprint(resolved(composed(*KEEPING))) == fingerprint(without)
    launch(plain, tmp_path)
    (folder,) = (tmp_path / "test").glob("*-*/")
    assert rows(folder) == kept
    assert not (folder / "updates").exists()


@pytest.mark.parametrize(
    "choices",
    [
        (),
        ("batch_size=3",),
        ("editor=rome", "layers.edit=[1]"),
        ("editor=ft", "layers.edit=[1]"),
        ("regularizer=[norm_reset]", "batch_size=2"),
    ],
    ids=["memit", "batches", "rome", "ft", "norm_reset"],
)
def test_a_replay_finds_the_same_numbers_to_the_bit(
    composed: Composed, overrides: list[str], tmp_path: Path, choices: tuple[str, ...]
):
    if any(choice.startswith("editor=") for choice in choices):
        overrides[:] = [each for each in overrides if not each.startswith("editor.")]
        if "editor=rome" in choices:
            overrides.append("editor.targets.steps=4")
    run = recorded(composed, tmp_path, *choices)
    overrides[:] = [each for each in overrides if not each.startswith(("editor.", "layers.", "edits="))]
    again = replaying(composed, tmp_path, run)
    assert rows(again) == rows(run) and len(rows(run)) > 2
    one, two = (pd.read_parquet(folder / "records.parquet") for folder in (run, again))
    pd.testing.assert_frame_equal(one, two)
    assert (
        json.loads((again / "summary.json").read_text())["statistics"]
        == (json.loads((run / "summary.json").read_text())["statistics"])
    )


def interrupted_run(
    composed: Composed, root: Path, monkeypatch: pytest.MonkeyPatch, *choices: str, row: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Cut):
        at_row(patch, row, cut)
        launch(composed(*choices), root)


def test_a_resumed_run_keeps_the_same_updates(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A resumed run keeps the updates of one that was not interrupted."""
    choices = [*KEEPING, "name=real", "edits=6", "intervention.save_every=2"]
    whole = recorded(composed, tmp_path / "whole", "edits=6")
    interrupted_run(composed, tmp_path / "cut", monkeypatch, *choices, row=6)
    (folder,) = (tmp_path / "cut" / "real").glob("*-*/")
    assert len(read_updates(folder / "updates")) == 4
    launch(composed(*choices), tmp_path / "cut")
    assert content(folder) == content(whole)


def test_pieces_have_to_match_the_checkpoint(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pieces after the checkpoint are deleted; a checkpoint whose updates are missing is refused."""
    choices = [*KEEPING, "name=real", "edits=6", "intervention.save_every=2"]
    interrupted_run(composed, tmp_path, monkeypatch, *choices, row=6)
    (folder,) = (tmp_path / "real").glob("*-*/")
    shutil.rmtree(folder / "state" / "0" / "checkpoint-4")
    interrupted_run(composed, tmp_path, monkeypatch, *choices, row=1)
    assert [path.stem for path in (folder / "updates").iterdir()] == ["00000000-00000002"]
    shutil.rmtree(folder / "updates")
    with pytest.raises(ConfigError, match=r"updates/00000000-00000002.* resume=never"):
        launch(composed(*choices), tmp_path)


RESUMED = ("drift_kept", "norm_kept", "rotated")
"""A control that sums, one that remembers norms, and one that draws; the others are as one of these."""


@pytest.mark.parametrize(
    "control",
    [*RESUMED, *(pytest.param(each, marks=pytest.mark.long) for each in CONTROLS if each not in RESUMED)],
)
def test_a_killed_and_resumed_replay_equals_one_that_was_not(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str
):
    run = recorded(composed, tmp_path, "edits=6")
    control_choices = [f"intervention/control={control}", "intervention.save_every=2"]
    whole = replaying(composed, tmp_path / "whole", run, *control_choices)
    choices = ["intervention=replay", f"intervention.source={run}", "name=again", *STAGES, *control_choices]
    interrupted_run(composed, tmp_path / "cut", monkeypatch, *choices, row=6)
    launch(composed(*choices), tmp_path / "cut")
    (folder,) = (tmp_path / "cut" / "again").glob("*-*/")
    assert rows(folder) == rows(whole)
    edited = {key for key in rows(whole)[1] if key.startswith("norm/frobenius_ratio/mlp_down")}
    assert len(edited) == (4 if control in ("spread", "grow_all") else 2)


def test_series_are_told_apart_by_their_control(composed: Composed, tmp_path: Path):
    from analysis.results.collection import collect

    run = recorded(composed, tmp_path)
    for control in CONTROLS[:3]:
        replaying(composed, tmp_path, run, f"intervention/control={control}")
    series = collect(tmp_path / "again").runs["series"]
    assert set(series) == {f"replay, control.name={name}" for name in ("real", *CONTROLS[1:3])}


def test_fewer_edits_than_were_recorded_end_where_a_batch_did(composed: Composed, tmp_path: Path):
    run = recorded(composed, tmp_path, "batch_size=2")
    again = replaying(composed, tmp_path, run, "intervention.edits=2")
    assert rows(again, ("edits",)) == rows(run, ("edits",))[:2]
    with pytest.raises(DataError, match=r"edits=3.* made 4 edits, 2 at a time"):
        replaying(composed, tmp_path, run, "intervention.edits=3")


def test_an_experiment_stands_for_its_only_finished_run(composed: Composed, tmp_path: Path):
    run = recorded(composed, tmp_path)
    assert run_of(str(tmp_path / "real")) == run_of(str(run)) == run
    with pytest.raises(ConfigError, match="nowhere holds no finished run"):
        run_of(str(tmp_path / "nowhere"))
    recorded_too = tmp_path / "real" / "0123456789"
    shutil.copytree(run, recorded_too)
    with pytest.raises(ConfigError, match=r"holds 2 finished runs, 2 of .* model=random and seed=0"):
        run_of(str(tmp_path / "real"), "random", 0)
    config = (recorded_too / "config.yaml").read_text()
    (recorded_too / "config.yaml").write_text(config.replace("\nseed: 0\n", "\nseed: 1\n"))
    (recorded_too / "DONE").write_text("2025-01-01T00:00:00+00:00\n")  # as before there were seals
    assert run_of(str(tmp_path / "real"), "random", 0) == run
    assert run_of(str(tmp_path / "real"), "random", 1) == recorded_too
    (recorded_too / "DONE").unlink()
    with pytest.raises(ConfigError, match="0123456789 is a run that is not finished"):
        run_of(str(recorded_too))


def test_a_replay_of_a_run_without_a_seal_warns_once(
    composed: Composed, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = recorded(composed, tmp_path)
    (run / "DONE").write_text("2025-01-01T00:00:00+00:00\n")
    replaying(composed, tmp_path, run)
    assert caplog.text.count(f"the files of {run} cannot be verified") == 1
    (run / "DONE").write_text("garbage")
    with pytest.raises(DataError, match="DONE is damaged"):
        replaying(composed, tmp_path, run, "intervention.edits=2")


def test_what_cannot_be_replayed_is_a_sentence(composed: Composed, tmp_path: Path, inputs: Path):
    run = recorded(composed, tmp_path)
    with pytest.raises(ConfigError, match=r"model\.dtype=float64, but .* model\.dtype=float32"):
        replaying(composed, tmp_path, run, "model.dtype=float64")
    with pytest.raises(ConfigError, match=r"model\.name=other, but the updates of .* model\.name=random"):
        replaying(composed, tmp_path, run, "model.name=other")
    other = tmp_path / "facts.jsonl"
    other.write_text((inputs / "facts.jsonl").read_text().replace('"case_id": ', '"case_id": 10'))
    with pytest.raises(DataError, match=r"does not hold 4 of the 4 facts .* choose the data of that run"):
        replaying(composed, tmp_path, run, f"data.path={other}")
    (piece,) = (run / "updates").iterdir()
    content = bytearray(piece.read_bytes())
    content[-5] ^= 1
    piece.write_bytes(content)
    with pytest.raises(DataError, match=rf"updates/{piece.name} has other bytes than .* resume=never"):
        replaying(composed, tmp_path, run)
    shutil.rmtree(run / "updates")
    with pytest.raises(DataError, match=rf"updates/{piece.name} is missing: .* resume=never"):
        replaying(composed, tmp_path, run)
    with pytest.raises(ConfigError, match=r"intervention\.source has no value; set intervention\.source="):
        build(resolved(composed("intervention=replay")))


def test_a_model_that_has_changed_since_is_refused(composed: Composed, checkpoint: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    run = recorded(composed, tmp_path, f"model.path={model}")
    weights = load_file(model / "model.safetensors")
    weights["transformer.h.3.mlp.c_proj.weight"][0] += 1
    save_file(weights, model / "model.safetensors")
    with pytest.raises(ConfigError, match=rf"model has changed since the run in {run} read it"):
        replaying(composed, tmp_path, run, f"model.path={model}")


def test_updates_are_an_input_told_apart_by_content(composed: Composed, tmp_path: Path):
    run = recorded(composed, tmp_path)
    plain = resolved(composed("intervention=replay", f"intervention.source={run.parent}"))
    before = input_digests(plain)[str(run / "updates")]
    assert input_digests(plain) == input_digests(plain)
    replaying(composed, tmp_path, run)
    (piece,) = (run / "updates").iterdir()
    piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    assert input_digests(plain)[str(run / "updates")] != before
    with pytest.raises(ConfigError, match="updates has changed since"):
        replaying(composed, tmp_path, run)


@pytest.mark.parametrize("name", ["cpt_then_edit", "edit_while_training"])
def test_updates_between_trainings_are_not_kept(composed: Composed, name: str):
    where = "parts.second" if name == "cpt_then_edit" else "editing"
    with pytest.raises(ConfigError, match="only updates of a run that edits alone"):
        build(resolved(composed(f"intervention={name}", f"intervention.{where}.keep_updates=true")))


def test_growth_needs_layers_and_nothing_else(composed: Composed, overrides: list[str], tmp_path: Path):
    overrides[:] = [each for each in overrides if not each.startswith(("editor.", "layers.", "moments"))]
    with pytest.raises(ConfigError, match=r"no values for editor=growth .* give layers.edit="):
        resolved(composed("editor=growth"))
    launch(composed("editor=growth", "layers=early", "stage=[norms]", "batch_size=2"), tmp_path)
    (folder,) = (tmp_path / "test").glob("*-*/")
    ratios = [row["norm/frobenius_ratio/mlp_down.00"] for row in rows(folder)]
    assert ratios == pytest.approx([1.0, 1.1**2, 1.1**4], rel=1e-6)
