"""An exported folder is the final model of the run, to the bit, with a card."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from analysis.results.run_folder import RunFolder
from editors.update_files import read_updates
from pipeline import experiment
from pipeline.checkpoints import kept_weights
from pipeline.checkpoints.kept_weights import Undo
from pipeline.commands import export, ledger
from pipeline.commands.exports.card import card
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved
from pipeline.launch import launch
from tests.fake_runs import write_run
from tests.tiny import TEXT, tiny_model

Composed = Callable[..., DictConfig]
QUICK = ("stage=[norms]", "regularizer=[norm_constraint]", "keep_weights=true", "edits=2")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Copies of the models that runs of the test end with."""
    models: list[nn.Module] = []

    def keep(model, folder: Path) -> None:
        models.append(copy.deepcopy(model.hf))
        kept_weights.keep_weights(model, folder)

    monkeypatch.setattr(experiment, "keep_weights", keep)
    return models


@pytest.fixture
def training(composed: Composed, inputs: Path, tmp_path: Path) -> Composed:
    """Two steps of a training."""
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Ada lives in the", "completion": "town"}\n' * 4)
    corpus = ("corpus@training.corpus=file", f"training.corpus.path={inputs / 'text.txt'}")
    pairs = ("training/pairs=file", f"training.pairs.path={tmp_path / 'pairs.jsonl'}")
    few = ("steps=2", "training=tiny", "training.cpt.length=16", "training.lora.batch_size=2")
    return lambda *more: composed(*corpus, *pairs, *few, *QUICK, *more)


def only_run(root: Path) -> Path:
    (folder,) = (root / "test").glob("*-*")
    return folder


def finished(config: DictConfig, root: Path) -> Path:
    launch(config, root)
    return only_run(root)


def message_for(*arguments: object) -> str:
    """The message of the command about a mistake."""
    message = export.main([str(argument) for argument in arguments])
    assert isinstance(message, str) and message.startswith("error: ")
    return message


def check_same(out: Path, model: nn.Module) -> None:
    """Equal logits, as any user of transformers gets them."""
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == model.dtype
    ids = torch.tensor([AutoTokenizer.from_pretrained(out)(TEXT[0]).input_ids[:40]])
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("gpt2", "bfloat16"),
        ("gptj", "float32"),
        ("neox", "float32"),
        ("llama", "bfloat16"),
        ("qwen2", "float32"),
    ],
)
def test_the_exported_model_is_the_one_that_the_run_ended_with(
    composed: Composed,
    ended: list[nn.Module],
    tmp_path: Path,
    family: str,
    dtype: str,
    caplog: pytest.LogCaptureFixture,
):
    model = tiny_model(family, double=False)  # gpt2's and qwen2's head is the embedding
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    if family == "llama":  # as Llama 2's first files; transformers reads it and refuses to write it
        (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6}')
    run = finished(composed(f"model.path={tmp_path / 'model'}", f"model.dtype={dtype}", *QUICK), tmp_path)
    names = set(load_file(run / "weights.safetensors")) - {
        "lm_head.weight"
    }  # which neox' file calls otherwise
    assert len(names) == 2 and all(".0.mlp" in name or ".1.mlp" in name for name in names)
    out = export.export(run, tmp_path / "out" / "model")
    check_same(out, ended[0])
    assert len({path.stat().st_mode for path in (*out.iterdir(), *run.iterdir()) if path.is_file()}) == 1
    assert "cannot be verified" not in caplog.text
    config = (run / "config.yaml").read_text()  # as a run of version 0.0 wrote it
    (run / "config.yaml").write_text(config.replace("editors.models.loading", "editors.model.loading"))
    (run / "DONE").write_text("2025-01-01T00:00:00+00:00\n")
    check_same(export.export(run, tmp_path / "out" / "again"), ended[0])
    assert caplog.text.count("cannot be verified, because their DONE is from before") == 1
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert not torch.equal(ended[0](ids).logits, model.hf.to(ended[0].dtype)(ids).logits)
    texts = [path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md")]
    assert not any(str(tmp_path) in text for text in texts), "folders of this machine are nobody's business"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_kept_updates_lead_to_the_same_model_as_kept_weights(
    composed: Composed, ended: list[nn.Module], tmp_path: Path
):
    run = finished(composed(*QUICK, "intervention.keep_updates=true", "model.dtype=bfloat16"), tmp_path)
    flip_a_bit(run / "weights.safetensors")
    assert "weights.safetensors has other bytes" in message_for(run, f"out={tmp_path / 'model'}")
    (run / "weights.safetensors").unlink()
    check_same(export.export(run, tmp_path / "model"), ended[0])
    piece = next((run / "updates").iterdir())
    flip_a_bit(piece)
    assert f"updates/{piece.name} has other bytes" in message_for(run, f"out={tmp_path / 'b'}")
    assert not (tmp_path / "b").exists()
    shutil.rmtree(run / "updates")
    assert "holds no weights: compute it again with keep_weights=true" in message_for(
        run, f"out={tmp_path / 'b'}"
    )


@pytest.mark.parametrize("intervention", ["cpt", "lora", "cpt_then_edit"])
def test_a_trained_model_is_exported_too(
    training: Composed, ended: list[nn.Module], tmp_path: Path, intervention: str
):
    run = finished(training(f"intervention={intervention}"), tmp_path)
    check_same(export.export(run, tmp_path / "out"), ended[0])
    text = (tmp_path / "out" / "README.md").read_text()
    assert "2 optimiser steps" in text and ("false or counterfactual" in text) == ("edit" in intervention)


def test_keeping_weights_makes_no_other_run_and_is_off_by_default(composed: Composed, tmp_path: Path):
    assert fingerprint(resolved(composed())) == fingerprint(resolved(composed("keep_weights=true")))
    run = finished(composed("stage=[norms]", "edits=2"), tmp_path)
    assert not (run / "weights.safetensors").exists()
    assert "holds no weights: compute it again with keep_weights=true resume=never" in message_for(
        run, f"out={tmp_path / 'out'}"
    )
    launch(composed("stage=[norms]", "edits=2", "keep_weights=true", "resume=never"), tmp_path)
    assert export.main([str(run), f"out={tmp_path / 'out'}"]) == 0


@pytest.mark.parametrize(
    "more", [("intervention=none",), ("intervention=lora", "intervention.trained.merge=false")]
)
def test_a_run_that_leaves_the_model_as_it_was_has_nothing_to_export(
    training: Composed, tmp_path: Path, more: tuple[str, ...]
):
    run = finished(training(*more), tmp_path)
    message = message_for(run, f"out={tmp_path / 'out'}")
    assert "ended with the model that it began with" in message
    assert ("adapter" in message) == ("intervention=lora" in more)
    assert not (tmp_path / "out").exists()


def test_a_run_that_cannot_be_exported_gets_a_sentence(composed: Composed, tmp_path: Path):
    model = tmp_path / "model"
    tiny = tiny_model(double=False)
    tiny.hf.save_pretrained(model)
    tiny.tokenizer.save_pretrained(model)
    run, out = finished(composed(f"model.path={model}", *QUICK), tmp_path), tmp_path / "out"
    assert "is no run and holds none" in message_for(tmp_path / "absent", f"out={out}")
    assert "is not empty" in message_for(run, f"out={model}")
    assert "is a file" in message_for(run, f"out={run / 'DONE'}")
    with pytest.raises(SystemExit, match="2"):
        export.main([str(run), str(out)])
    shutil.copytree(run, run.with_name("another"))
    assert "holds 2 runs: name one of them" in message_for(run.parent, f"out={out}")
    (run.parent / "another" / "DONE").unlink()
    assert "is not finished" in message_for(run.parent / "another", f"out={out}")
    (model / "extra.json").touch()
    assert "has changed since the run" in message_for(run, f"out={out}")
    shutil.rmtree(model)
    assert f"the initial model of {run} cannot be loaded" in message_for(run, f"out={out}")
    assert not out.exists() and not out.with_name("out.part").exists()


def test_the_target_of_an_export_is_checked_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = write_run(tmp_path, editor="memit", edits=4)
    monkeypatch.setattr(export, "edited_model", None)  # would raise another error
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    for out, reason in {
        ".": "is the folder in which the command runs",
        "/": "is not empty",
        "..": "is not empty",
        "~": "is not empty",
        run: "is not empty",
        run / "model": "is inside the run",
        run / "summary.json": "is a file",
    }.items():
        assert f"out={Path(out).expanduser()} {reason}" in message_for(run, f"out={out}")
    assert not any(here.iterdir())


def test_an_export_removes_nothing_that_it_did_not_make(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, out = finished(composed(*QUICK), tmp_path), tmp_path / "models" / "mine"
    for name in ("mine.part", ".mine.part", ".mine.tmp"):
        (out.parent / name).mkdir(parents=True)
        (out.parent / name / "thesis.tex").write_text("years of work")
    before = sorted(out.parent.rglob("*"))
    monkeypatch.setattr(export, "card", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.export(run, out)
    monkeypatch.undo()
    assert sorted(out.parent.rglob("*")) == before
    umask = os.umask(0o022)
    export.export(run, out)
    os.umask(umask)
    assert {path for path in out.parent.rglob("*") if not path.is_relative_to(out)} == set(before)
    assert out.stat().st_mode & 0o777 == 0o755


def test_an_experiment_with_one_run_and_an_empty_folder_will_do(composed: Composed, tmp_path: Path, capsys):
    run = finished(composed(*QUICK), tmp_path)
    (tmp_path / "out").mkdir()
    assert export.main([str(run.parent), f"out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    front, text = (tmp_path / "out" / "README.md").read_text().split("---\n")[1:3]
    assert yaml.safe_load(front)["base_model"] == "random"
    assert "norm of the changed matrices" in text and "edits: 2\n- batches of: 1\n" in text
    assert re.search(r"^- success: [012] of 2 edits took$", text, re.MULTILINE)
    assert "downstream ability: not measured" in text and "licence" in text


def test_texts_of_data_do_nothing_in_a_card(tmp_path: Path):
    evil = "x\n---\n# [a](javascript:b) <script>alert(1)</script> | `c` https://d *e*"
    evil += " $x$ www.evil.org ~~s~~ &lt;b&gt;"
    names = {"name": evil, "path": evil}
    config = {"model": names, "editor": {"name": evil}, "data": {"name": "known_facts"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"downstream/mean/acc": accuracy} for accuracy in (0.9, 0.5)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    texts = {"prompt": evil, "subject": evil, "target_new": evil, "target_true": ""}
    records = [{"id": "a", "edit": 1, **texts}]
    pd.DataFrame(records).to_parquet(tmp_path / "records.parquet")
    summary = {
        "edits": 1,
        "parts": [{"unit": "edits", "name": "a"}],
        "alarms": [{"signature": "a", "sentence": evil}],
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = card(RunFolder(tmp_path))
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert "base_model" not in head and head["tags"] == ["normscope", "knowledge-editing"]
    lines = body.splitlines()
    bare = re.sub(r"\\.", "", body)
    assert not any(sign in bare for sign in ("<", "[", "]", "`", "*", "://", "$", "~", "www.", "&"))
    assert "- facts: known_facts\n" in body, "an underscore inside a word is no markup"
    assert [line for line in lines if line.startswith("# ")] == lines[1:2] and "\n---" not in body
    assert "mean accuracy fell from 0.9 to 0.5" in body


@pytest.mark.slow
def test_lm_eval_loads_the_folder(composed: Composed, ended: list[nn.Module], tmp_path: Path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    out = export.export(finished(composed(*QUICK), tmp_path), tmp_path / "out")
    harness = HFLM(pretrained=str(out), device="cpu")
    request = Instance("loglikelihood", {}, ("Ada Byron works as a", " poet"), 0)
    (likelihood,) = harness.loglikelihood([request], disable_tqdm=True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([tokenizer("Ada Byron works as a poet").input_ids])
    start = len(tokenizer("Ada Byron works as a").input_ids)
    with torch.inference_mode():
        log_probabilities = ended[0](ids).logits.log_softmax(dim=-1)[0, start - 1 : -1]
    assert likelihood[0] == pytest.approx(
        float(log_probabilities.gather(1, ids[0, start:, None]).sum()), rel=1e-4
    )


BY_TWO = ("stage=[norms]", "editor=memit", "regularizer=[history]", "intervention.keep_updates=true")


def test_the_last_edits_are_taken_back_to_the_bit(composed: Composed, ended: list[nn.Module], tmp_path: Path):
    """As a run that ended there."""
    finished(composed(*BY_TWO, "batch_size=2", "edits=2", "keep_weights=true"), tmp_path / "short")
    run = finished(composed(*BY_TWO, "batch_size=2", "edits=6"), tmp_path / "long")
    check_same(export.export(run, tmp_path / "out", undo=Undo(edits=2)), ended[0])
    card_of = (tmp_path / "out" / "README.md").read_text()
    assert "all after the first 2; all numbers are those of the run with them" in card_of
    assert "| after all edits of the run |" in card_of
    message = message_for(run, f"out={tmp_path / 'more'}", "edits=3")
    assert "made 6 edits, 2 at a time: choose a number at which one of its batches ended" in message


def test_one_edit_is_taken_back_and_the_others_stay(composed: Composed, tmp_path: Path):
    run = finished(composed(*BY_TWO, "edits=4"), tmp_path)
    batches = read_updates(run / "updates")
    second = batches[1].facts[0]
    assert export.main([str(run), f"out={tmp_path / 'out'}", f"undo={second}"]) == 0
    whole, without = export.edited_model(run), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for site, delta in batches[1].update.items():
        name = next(n for n, p in whole.hf.named_parameters() if p is whole.module(*site).weight)
        gone = whole.hf.get_parameter(name) - without.get_parameter(name)
        gone = gone.T if gone.shape != delta.dense().shape else gone
        torch.testing.assert_close(gone.double(), delta.dense().double(), rtol=1e-3, atol=1e-6)
    assert f"those of {second}" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_of_a_model_without_some_edits_lists_the_others(composed: Composed, tmp_path: Path):
    run = finished(composed(*BY_TWO, "stage=[norms,efficacy]", "edits=4"), tmp_path)
    first, second, third, fourth = (row["prompt"].replace("{}", row["subject"]) for row in _records(run))
    ids = [batch.facts[0] for batch in read_updates(run / "updates")]
    whole, without = card(RunFolder(run)), card(RunFolder(run), Undo(facts=(ids[1],), edits=3))
    assert all(prompt in whole for prompt in (first, second, third, fourth)) and "- success:" in whole
    assert first in without and third in without and second not in without and fourth not in without
    assert "- success:" not in without


def _records(run: Path) -> list[dict[str, str]]:
    tables, _ = RunFolder(run).tables()
    return tables["records"]


def test_what_cannot_be_taken_back_is_said_in_a_sentence(composed: Composed, tmp_path: Path):
    run = finished(composed(*BY_TWO, "batch_size=2", "edits=4"), tmp_path)
    first, other = read_updates(run / "updates")[0].facts
    out = f"out={tmp_path / 'out'}"
    assert f"together with 1 others: name them too ({other})" in message_for(run, out, f"undo={first}")
    assert "did not edit that fact: its ledger names" in message_for(run, out, "undo=nobody")
    shutil.rmtree(run / "updates")
    assert "kept no updates, so that no edit can be taken back" in message_for(run, out, f"undo={first}")
    assert not (tmp_path / "out").exists()


def test_a_replay_can_leave_edits_out(composed: Composed, tmp_path: Path):
    run = finished(composed(*BY_TWO, "edits=3"), tmp_path)
    second = read_updates(run / "updates")[1].facts[0]
    chosen = ("intervention=replay", f"intervention.source={run}", f"intervention.undo=[{second}]")
    replayed = finished(composed("stage=[norms]", "keep_weights=true", *chosen), tmp_path / "again")
    export.export(run, tmp_path / "one", undo=Undo(facts=(second,)))
    export.export(replayed, tmp_path / "two")
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_ledger_lists_every_edit(composed: Composed, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stages = ("stage=[norms,efficacy]", *BY_TWO[1:])
    run = finished(composed(*stages, "edits=3"), tmp_path)
    rows = ledger.ledger(run)
    assert [row["edit"] for row in rows] == [1, 2, 3]
    assert all(isinstance(row["took"], bool) and isinstance(row["alive"], bool) for row in rows)
    sizes = [sum(d.square() for d in batch.update.values()) ** 0.5 for batch in read_updates(run / "updates")]
    assert [row["update norm"] for row in rows] == pytest.approx(sizes)
    assert ledger.main([str(run), f"out={tmp_path / 'ledger.csv'}"]) == 0
    table = pd.read_csv(tmp_path / "ledger.csv")
    assert table["id"].astype(str).tolist() == [row["id"] for row in rows] and table["fact"].notna().all()
    assert ledger.main([str(run)]) == 0
    assert "of 3 edits are alive at the end" in capsys.readouterr().out


def test_the_ledger_of_a_run_without_edits_is_refused(training: Composed, tmp_path: Path):
    run = finished(training("intervention=cpt"), tmp_path)
    assert "edited no facts" in str(ledger.main([str(run)]))
