"""A whole run on a random model, and what has to hold of its files."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from analysis.stage import Observation, Reference
from editors.errors import DataError, ModelError
from pipeline.build import build, resolved
from pipeline.launch import launch
from pipeline.rundir import RunDir

Composed = Callable[..., DictConfig]


def only_run(root: Path) -> Path:
    (folder,) = (root / "test").iterdir()
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_the_contract_names(composed: Composed, tmp_path: Path, capsys):
    objective = launch(composed("editor=encore", "stage=[norms,growth,efficacy]"), tmp_path)
    folder = only_run(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "records.parquet",
        "summary.json",
        "DONE",
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["objective"] == objective == summary["metrics"]["edit/score/seen"]
    assert summary["statistics"].startswith("3,000 tokens of ")
    assert [row["edits"] for row in rows(folder)] == [0, 1, 2, 3, 4]
    assert len(pd.read_parquet(folder / "records.parquet")) == 4


def test_the_unedited_row_has_ratio_one_everywhere_and_only_edited_matrices_move(
    composed: Composed, tmp_path: Path
):
    launch(composed("stage.norms.cadence.every=1"), tmp_path)
    first, *_, last = rows(only_run(tmp_path))
    ratios = {key: value for key, value in first.items() if key.startswith("norm/frobenius_ratio/")}
    assert ratios and all(value == 1 for value in ratios.values())
    moved = {key for key in last if key.startswith("norm/distance/") and last[key] > 0}
    assert moved == {"norm/distance/mlp_down.00", "norm/distance/mlp_down.01"}
    assert last["norm/frobenius_ratio/static"] == 1


def test_the_growth_split_adds_up_to_the_growth_of_the_norm(composed: Composed, tmp_path: Path):
    launch(composed("stage.norms.cadence.every=1"), tmp_path)
    for before, after in pairwise(rows(only_run(tmp_path))):
        key = "norm/frobenius/mlp_down.01"
        split = after["norm/growth_cross/mlp_down.01"] + after["norm/growth_square/mlp_down.01"]
        assert after[key] ** 2 - before[key] ** 2 == pytest.approx(split, rel=1e-4, abs=1e-5)


def test_the_same_configuration_gives_the_same_numbers_and_is_not_computed_twice(
    composed: Composed, tmp_path: Path
):
    config = composed()
    launch(config, tmp_path / "one")
    launch(config, tmp_path / "two")
    one, two = rows(only_run(tmp_path / "one")), rows(only_run(tmp_path / "two"))
    for a, b in zip(one, two, strict=True):
        timeless = [key for key in a if not key.startswith(("time/", "memory/"))]
        assert [a[key] for key in timeless] == [b[key] for key in timeless]
    stamp = (only_run(tmp_path / "one") / "DONE").stat().st_mtime_ns
    launch(config, tmp_path / "one")
    assert (only_run(tmp_path / "one") / "DONE").stat().st_mtime_ns == stamp


def test_another_seed_is_another_run_and_never_recomputes_when_told(composed: Composed, tmp_path: Path):
    launch(composed(), tmp_path)
    launch(composed("seed=1"), tmp_path)
    assert len(list((tmp_path / "test").iterdir())) == 2
    launch(composed("resume=never"), tmp_path)
    assert len(list((tmp_path / "test").iterdir())) == 2


def test_stages_leave_weights_mode_hooks_and_random_state_as_they_were(composed: Composed, tmp_path: Path):
    parts = build(resolved(composed("stage=[norms,growth,efficacy,downstream]", "stage.downstream.limit=4")))
    model = parts.model.load()
    facts = parts.intervention.plan(parts.data.load())
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    seen = Observation(
        edits=0, total=4, untouched=facts.untouched, seen=facts.stream, reference=Reference(model)
    )
    for stage in parts.stages:
        random_state = torch.get_rng_state()
        stage.prepare(model)
        assert stage.measure(model, seen) or stage.name == "growth"
        assert torch.equal(random_state, torch.get_rng_state()), stage.name
        assert not model.hf.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    assert all(torch.equal(before[key], value) for key, value in model.hf.state_dict().items())


def test_batches_count_facts_and_the_last_may_be_smaller(composed: Composed, tmp_path: Path):
    launch(composed("edits=5", "batch_size=2"), tmp_path)
    assert [row["edits"] for row in rows(only_run(tmp_path))] == [0, 2, 4, 5]


def test_measuring_without_an_intervention_gives_one_row(composed: Composed, tmp_path: Path):
    launch(composed("intervention=none"), tmp_path)
    (row,) = rows(only_run(tmp_path))
    assert row["norm/frobenius_ratio/static"] == 1


def test_more_edits_than_facts_names_both_numbers_before_the_model_is_loaded(
    composed: Composed, tmp_path: Path
):
    with pytest.raises(DataError, match=r"edits=50.*only 8 facts"):
        launch(composed("edits=50", "model.path=/nowhere"), tmp_path)
    assert "edits=50" in (only_run(tmp_path) / "FAILED").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.path=/nowhere.jsonl", "/nowhere.jsonl"),
        ("model.corpus.path=/nowhere.txt", "/nowhere.txt"),
        ("model.path=nobody/no-such-model", "no folder of that name"),
        ("model.depth=5", r"model\.depth=5, but .* has 4 blocks"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, sentence: str
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((DataError, ModelError), match=sentence):
        launch(composed(override), tmp_path)


def test_a_folder_without_tokenizer_says_so(composed: Composed, checkpoint: Path, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(ModelError, match="holds no tokenizer"):
        launch(composed(f"model.path={bare}"), tmp_path)


def test_a_run_that_another_process_computes_is_left_to_it(composed: Composed, tmp_path: Path, capsys):
    plain = resolved(composed())
    with RunDir(root=tmp_path, config=plain) as busy:
        assert launch(composed(), tmp_path) is None
        assert not busy.done
    assert capsys.readouterr().out.strip() == str(busy.folder)
