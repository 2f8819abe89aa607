"""A whole run on a random model, and what has to hold of its files."""

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from analysis.stages.base import Measurement, Observation
from analysis.stages.norms import Norms
from analysis.stages.reference import Reference
from analysis.stages.signatures import Alarm, Signatures
from editors.errors import DataError, ModelError
from editors.phases import Phase
from editors.updates import Site
from pipeline.build import build
from pipeline.config.schema import resolved
from pipeline.launch import launch
from pipeline.runs.folder import RunDir
from pipeline.runs.messages import error_line
from pipeline.tracking.display import Display
from tests.metric_rows import not_in_one_row

Composed = Callable[..., DictConfig]


def only_run(root: Path) -> Path:
    (folder,) = (root / "test").glob("*-*")
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_the_contract_names(composed: Composed, tmp_path: Path, capsys):
    objective = launch(composed("editor=encore", "stage=[norms,efficacy]"), tmp_path)
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
    edits = pd.read_parquet(folder / "edits.parquet")
    assert edits["edit"].tolist() == [1, 2, 3, 4]
    assert (edits[["target_norm", "key_norm", "residual_norm"]] > 0).all(axis=None)
    assert summary["outcome"]["checked"] == 4 and summary["outcome"]["took"] == edits["took"].sum()
    assert [row.get("edit/took/mean") for row in rows(folder)] == [None, *edits["took"]]
    assert summary["alarms"] == [] and not summary["stopped"]


def test_only_edited_matrices_move(composed: Composed, tmp_path: Path):
    """The row of the unedited model has ratio one everywhere."""
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


def test_a_configuration_has_the_same_numbers_and_is_computed_once(composed: Composed, tmp_path: Path):
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


def test_another_seed_is_another_run_and_resume_never_recomputes(composed: Composed, tmp_path: Path):
    launch(composed(), tmp_path)
    launch(composed("seed=1"), tmp_path)
    assert len(list((tmp_path / "test").glob("*-*"))) == 2
    launch(composed("resume=never"), tmp_path)
    assert len(list((tmp_path / "test").glob("*-*"))) == 2


def test_every_phase_before_the_first_edit_and_of_the_last_measurement_is_shown(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    phases: list[Phase | int] = []
    monkeypatch.setattr(Display, "report", lambda _, phase: phases.append(phase))
    monkeypatch.setattr(Display, "show", lambda _, part, count, row: phases.append(count))
    options = ["regularizer=[norm_constraint]", f"editor.contexts.cache={tmp_path / 'contexts'}"]
    launch(composed(*options, "stage=[norms,efficacy]"), tmp_path)
    names = [each if isinstance(each, int) else each.name for each in phases]
    stages = ["measuring norms", "measuring efficacy"]
    assert list(dict.fromkeys(names)) == [
        "loading random", "sampling contexts", "reading the facts", "estimating memory",
        "calibrating regularizers", "collecting second moments", "factoring what is preserved",
        "preparing norms", "preparing efficacy", *stages, 0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert names[-3:] == [*stages, 4]


EVERY = (
    "norms,functional,spectra,activations,probes,efficacy,generation,generation_match,suppression,"
    "perplexity,downstream,tracing"
)
QUICK = (
    "text.tokens=600",
    "stage.downstream.limit=4",
    "stage.probes.samples=100",
    "stage.generation.prompts=2",
    "stage.tracing.only_known=false",
    "stage.tracing.samples=2",
)


def test_stages_leave_weights_mode_hooks_and_random_state_as_they_were(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
):
    # the type checker of the tests draws from Python's own generator
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    parts = build(resolved(composed(f"stage=[{EVERY}]", *QUICK)))
    assert len(parts.stages) == len(EVERY.split(","))
    model = parts.model.load()
    plan = parts.intervention.plan(parts.data.load())
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    reference = Reference(model)
    for stage in parts.stages:
        random_state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        stage.prepare(model, plan.stream)
        for edits in (0, 2, 4):
            seen = Observation(
                count=edits, before=max(edits - 2, 0), total=4, untouched=plan.untouched,
                seen=plan.stream[:edits], latest=plan.stream[:edits], reference=reference,
                edited=parts.intervention.editor.sites,
            )  # fmt: skip
            # spectra measures edited matrices, suppression facts that a model knows: a random one knows none
            assert stage.measure(model, seen) or stage.name in ("spectra", "suppression"), stage.name
        assert torch.equal(random_state[0], torch.get_rng_state()), stage.name
        assert random_state[1:] == (random.getstate(), np.random.get_state()[1].tolist()), stage.name
        assert not model.hf.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules()), stage.name
    assert all(torch.equal(before[key], value) for key, value in model.hf.state_dict().items())


def test_every_stage_respects_its_cadence_and_reports_its_seconds(composed: Composed, tmp_path: Path):
    cadences = [
        f"stage.{name}.cadence.{choice}" for name in EVERY.split(",") for choice in ("every=0", "at=[3]")
    ]
    launch(composed(f"stage=[{EVERY}]", *QUICK, *cadences), tmp_path)
    for row in rows(only_run(tmp_path)):
        measured = {name for name in EVERY.split(",") if f"time/{name}/seconds" in row}
        assert measured == (set(EVERY.split(",")) if row["edits"] in (0, 3, 4) else set()), row["edits"]
        assert not not_in_one_row(row), "every key belongs to one row of the table of metrics"
        prepared = {key for key in row if key.endswith("_prepare/seconds")}
        assert len(prepared) == (len(EVERY.split(",")) if row["edits"] == 0 else 0)


def test_a_run_whose_edits_do_not_take_does_not_look_fine(
    composed: Composed, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Neither when it ends nor when it is asked for again."""
    choices = ("editor=memit", "editor.targets.steps=1", "edits=2", "stage=[norms]")
    launch(composed(*choices), tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(line.startswith("0 of 2 edits took") for line in warnings)
    assert any("2 missed because their target was not found" in line for line in warnings)
    assert any("raise editor.targets.steps (1)" in line for line in warnings)
    caplog.clear()
    launch(composed(*choices), tmp_path)
    assert "only 0 of 2 edits took" in caplog.text


ALARMED = ("stage=[norms,efficacy,signatures]", "stage.signatures.norm_growth=1.000001")


def test_an_alarm_is_reported_once_and_the_run_continues(
    composed: Composed, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    launch(composed(*ALARMED), tmp_path)
    folder = only_run(tmp_path)
    (row,) = [row for row in rows(folder) if "alarm/norm_growth/at" in row]
    assert row["alarm/norm_growth/at"] == row["edits"] == 1
    (alarm,) = json.loads((folder / "summary.json").read_text())["alarms"]
    assert alarm["sentence"] in caplog.text
    assert rows(folder)[-1]["edits"] == 4


def test_an_alarm_can_stop_the_run_after_a_last_measurement(composed: Composed, tmp_path: Path):
    objective = launch(composed(*ALARMED, "stage.signatures.on_alarm=stop"), tmp_path)
    folder = only_run(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped"] and summary["edits"] == 1 and (folder / "DONE").exists()
    assert [row["edits"] for row in rows(folder)] == [0, 1]
    assert len(pd.read_parquet(folder / "records.parquet")) == 1
    assert objective is not None and objective == rows(folder)[-1]["edit/score/seen"]
    last = rows(folder)[-1]
    assert "norm/growth_square/mlp_down.01" in last and "norm/frobenius/attn_q.00" in last


def test_an_alarm_on_the_unedited_model_stops_before_the_first_edit(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alarm = Alarm(
        signature="early", count=0, key="probe/accuracy/mean", value=0.5, threshold=0.7, sentence="early"
    )
    monkeypatch.setattr(Signatures, "judge", lambda *_: [alarm])
    stages = "stage=[norms,probes,signatures]"
    launch(composed(stages, "stage.signatures.on_alarm=stop", *QUICK[:3:2]), tmp_path)
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert [row["edits"] for row in rows(only_run(tmp_path))] == [0]
    assert summary["stopped"] and {alarm["signature"] for alarm in summary["alarms"]} == {"early"}
    assert len(pd.read_parquet(only_run(tmp_path) / "probes.parquet")) == 6  # each pair once


def test_a_stopped_run_ends_with_a_measurement_by_every_stage(composed: Composed, tmp_path: Path):
    stages = "stage=[norms,probes,signatures]"
    choices = ["stage.signatures.norm_growth=1.000001", "stage.signatures.on_alarm=stop", *QUICK[:3:2]]
    launch(composed(stages, *choices), tmp_path)
    assert [row["edits"] for row in rows(only_run(tmp_path))] == [0, 1]
    assert "probe/accuracy/mean" in rows(only_run(tmp_path))[-1]


def test_an_alarm_at_the_last_edit_stops_nothing(composed: Composed, tmp_path: Path):
    launch(composed(*ALARMED, "stage.signatures.on_alarm=stop", "edits=1"), tmp_path)
    assert not json.loads((only_run(tmp_path) / "summary.json").read_text())["stopped"]


def test_a_model_that_gives_no_numbers_ends_its_run_with_every_stage(
    composed: Composed,
):
    parts = build(resolved(composed(f"stage=[{EVERY}]", *QUICK)))
    model = parts.model.load()
    plan = parts.intervention.plan(parts.data.load())
    for stage in parts.stages:
        stage.prepare(model, plan.stream)
    reference = Reference(model)
    for layer in (2, 3):
        model.write(Site("mlp_down", layer), torch.full_like(model.weight("mlp_down", layer), torch.nan))
    seen = Observation(
        count=4, total=4, seen=plan.stream, latest=plan.stream, untouched=plan.untouched,
        reference=reference, edited=parts.intervention.editor.sites,
    )  # fmt: skip
    measurement: Measurement = {}
    for stage in parts.stages:
        measurement |= stage.measure(model, seen)
    assert measurement["downstream/sentiment/acc"] == 0
    assert "downstream/mean/acc" not in measurement, "the random model is at chance before it is broken"
    assert measurement["edit/success/seen.rewrite"] == measurement["edit/generated/seen.contains"] == 0
    assert measurement["probe/direct/block.03"] == 1 and measurement["probe/direct/block.01"] == 0.5
    for key in (
        "generation/entropy/mean",
        "text/loss/held_out",
        "activation/subspace_overlap/block.03",
        "trace/clean/mean",
        "trace/late/attention",
    ):
        assert np.isnan(measurement[key]), key


def test_an_alarm_can_save_the_edited_matrices(composed: Composed, tmp_path: Path):
    launch(composed(*ALARMED, "stage.signatures.on_alarm=checkpoint"), tmp_path)
    (path,) = (only_run(tmp_path) / "checkpoints").iterdir()
    saved = load_file(path)
    assert path.name == "edits-000001.safetensors" and set(saved) == {"mlp_down.00", "mlp_down.01"}
    expected = rows(only_run(tmp_path))[1]["norm/frobenius/mlp_down.01"]
    assert float(saved["mlp_down.01"].double().norm()) == pytest.approx(expected)


def test_batches_count_facts_and_the_last_may_be_smaller(composed: Composed, tmp_path: Path):
    launch(composed("edits=5", "batch_size=2"), tmp_path)
    assert [row["edits"] for row in rows(only_run(tmp_path))] == [0, 2, 4, 5]


def test_measuring_without_an_intervention_gives_one_row(composed: Composed, tmp_path: Path):
    launch(composed("intervention=none"), tmp_path)
    (row,) = rows(only_run(tmp_path))
    assert row["norm/frobenius_ratio/static"] == 1


def test_tracing_uses_the_facts_of_the_data_if_none_is_edited(composed: Composed, tmp_path: Path):
    launch(composed("intervention=none", "stage=[tracing]", *QUICK[-2:]), tmp_path)
    (row,) = rows(only_run(tmp_path))
    assert row["trace/known/facts"] == 9  # eight people, one of them with two facts
    assert row["trace/total/mean"] == pytest.approx(row["trace/block/last.03"])


def test_more_edits_than_facts_are_refused(composed: Composed, tmp_path: Path):
    """The sentence names both numbers, before the model is loaded."""
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
def test_an_input_that_cannot_be_loaded_is_named(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, sentence: str
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((DataError, ModelError), match=sentence):
        launch(composed(override), tmp_path)


@pytest.mark.parametrize("method", ["prepare", "measure"])
def test_the_stage_of_an_unexpected_error_is_named(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    """In the sentence that `status` shows, after the traceback, and in the line of a sweep."""
    monkeypatch.setattr(Norms, method, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        launch(composed("intervention=none", "stage=[spectra,norms]"), tmp_path)
    text = (only_run(tmp_path) / "FAILED").read_text()
    line = "ZeroDivisionError: division by zero (in stage norms)"
    assert text.splitlines()[0] == line == error_line(caught.value)
    assert "Traceback" in text and text.endswith("in stage norms\n")


def test_a_text_that_is_missing_is_told_before_the_model_is_looked_for(composed: Composed, tmp_path: Path):
    with pytest.raises(DataError, match=r"/nowhere\.txt"):
        launch(composed("model.corpus.path=/nowhere.txt", "model.path=/nowhere"), tmp_path)


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
