"""Training as an intervention: what trains, its numbers, and that measuring it changes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from editors.errors import ConfigError, DataError, NumericsError
from editors.models.model import Model
from pipeline.build import build
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import resolved
from pipeline.data.pairs import PairRows
from pipeline.interventions.training.examples import IGNORED, Completions, PackedText, collate
from pipeline.interventions.training.optimizer import Optimizer
from pipeline.interventions.training.trainees import Weights
from pipeline.launch import launch
from pipeline.runs.folder import RunDir
from pipeline.runs.signals import Requests
from tests.tiny import tiny_model

Composed = Callable[..., DictConfig]
QUIET = ("time/", "memory/")


@pytest.fixture
def training(composed: Composed, inputs: Path, tmp_path: Path) -> Composed:
    """Short trainings of the random model on random text, or on pairs."""
    pairs = [{"prompt": f"{name} lives in the", "completion": "town"} for name in "Ada Bob Cleo Dan".split()]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def make(intervention: str, *more: str) -> DictConfig:
        return composed(
            f"intervention={intervention}",
            "corpus@training.corpus=file",
            f"training.corpus.path={inputs / 'text.txt'}",
            "training/pairs=file",
            f"training.pairs.path={tmp_path / 'pairs.jsonl'}",
            "training=tiny",
            "training.cpt.length=16",
            "steps=6",
            "training.cpt.batch_size=4",
            "training.fft.batch_size=2",
            "training.lora.batch_size=2",
            *more,
        )

    return make


def only_run(root: Path) -> Path:
    (folder,) = (root / "test").glob("*-*")
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.startswith(QUIET)} for row in rows]


def moved(row: dict) -> set[str]:
    prefix = "norm/distance/"
    return {key.removeprefix(prefix) for key, value in row.items() if key.startswith(prefix) and value > 0}


def test_a_training_counts_its_steps_and_tokens_and_every_matrix_moves(training: Composed, tmp_path: Path):
    launch(training("cpt"), tmp_path)
    measured = rows(only_run(tmp_path))
    assert [row["steps"] for row in measured] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["tokens"] for row in measured] == [64 * step for step in range(7)]
    assert {(row["unit"], row["part"], row["edits"]) for row in measured} == {("steps", 0, 0)}
    assert all(row["train/loss/step"] > 0 and row["train/gradient_norm/step"] > 0 for row in measured[1:])
    assert measured[-1]["train/loss/step"] < measured[1]["train/loss/step"]
    assert len(moved(measured[-1])) == 4 * 6 and not moved(measured[0])
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["parts"] == [{"name": "cpt", "unit": "steps", "total": 6, "count": 6}]
    assert (summary["steps"], summary["tokens"], summary["edits"], summary["editor"]) == (6, 384, 0, "")
    assert not (only_run(tmp_path) / "state").exists()


@pytest.mark.parametrize("intervention", ["fft", "lora"])
def test_measuring_changes_nothing_of_a_training(training: Composed, tmp_path: Path, intervention: str):
    stages = "stage=[norms,spectra,activations,probes,efficacy,perplexity]"
    few = ["stage.norms.cadence.every=0", "stage.norms.whole.every=0"]
    names = ("spectra", "activations", "probes", "efficacy", "perplexity")
    often = [stages, "text.tokens=300", "stage.probes.samples=40"]
    often += [f"stage.{name}.cadence.every=2" for name in names]
    launch(training(intervention, "stage=[norms]", *few), tmp_path / "few")
    launch(training(intervention, *often), tmp_path / "often")
    few_rows, often_rows = rows(only_run(tmp_path / "few")), rows(only_run(tmp_path / "often"))
    losses = [[row["train/loss/step"] for row in measured[1:]] for measured in (few_rows, often_rows)]
    assert losses[0] == losses[1]
    last = {key: value for key, value in few_rows[-1].items() if key.startswith("norm/")}
    assert last.items() <= often_rows[-1].items()


@pytest.mark.parametrize("intervention", ["cpt_localized", "fft_localized", "lora_localized"])
def test_a_localized_training_moves_the_chosen_matrices_alone(
    training: Composed, tmp_path: Path, intervention: str
):
    launch(training(intervention, "layers.edit=[1,2]"), tmp_path)
    assert moved(rows(only_run(tmp_path))[-1]) == {"mlp_down.01", "mlp_down.02"}


def test_lora_tells_the_norms_of_its_factors_and_of_what_they_add(training: Composed, tmp_path: Path):
    launch(training("lora", "training.adapter.sites=[mlp_up]"), tmp_path)
    *_, last = rows(only_run(tmp_path))
    for site in (f"mlp_up.0{layer}" for layer in range(4)):
        product = last[f"lora/norm_product/{site}"]
        assert 0 < product <= 2 * last[f"lora/norm_a/{site}"] * last[f"lora/norm_b/{site}"]  # alpha / r = 2
        distance = last[f"norm/distance/{site}"] * last[f"norm/frobenius/{site}"]
        ratio = last[f"norm/frobenius_ratio/{site}"]
        assert product == pytest.approx(distance / ratio, rel=1e-4)


def test_an_unmerged_adapter_is_saved(training: Composed, tmp_path: Path):
    """An adapter that is not merged is saved, and the model ends as it began."""
    parts = build(resolved(training("lora", "intervention.trained.merge=false")))
    model = parts.model.load()
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    _run(parts.intervention, model, tmp_path)
    assert (tmp_path / "adapter" / "training" / "adapter_model.safetensors").is_file()
    after = model.hf.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


class Counting:
    """An observer that counts, and may end a training early."""

    def __init__(self, folder: Path, until: int) -> None:
        self.folder, self.checkpoints, self.until = folder, folder / "training", until
        self.resumed, self.steps, self.requests = None, 0, Requests()

    def due(self, *_: object) -> bool:
        return True

    def look(self, model: Model, part: object, change: object = None) -> bool:
        self.steps += change is not None
        return self.steps < self.until

    def save(self, checkpoint: Path, pieces: object = ()) -> None:
        """Nothing to add."""


def _run(intervention: object, model: Model, folder: Path, until: int = 99) -> Counting:
    observer = Counting(folder, until)
    intervention.run(model, intervention.plan(_no_facts()), observer)  # pyright: ignore
    return observer


def _no_facts() -> object:
    from pipeline.data.factset import FactSet

    return FactSet(name="none", facts=())


def test_an_onlooker_can_end_a_training(training: Composed, tmp_path: Path):
    parts = build(resolved(training("cpt")))
    assert _run(parts.intervention, parts.model.load(), tmp_path, until=3).steps == 3


def test_loss_rate_and_tokens_are_those_of_their_definitions(
    training: Composed, checkpoint: Path, tmp_path: Path
):
    """The first loss is that of the unedited model, by plain torch; batches are accumulated."""
    shutil.copytree(checkpoint, tmp_path / "model")
    architecture = json.loads((tmp_path / "model" / "config.json").read_text())
    architecture |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    (tmp_path / "model" / "config.json").write_text(json.dumps(architecture))
    pairs = {"Ada lives in the": "town", "Bob the sea captain lives in the": "little town by the river"}
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs.items()]
    (tmp_path / "two.jsonl").write_text("\n".join(lines))
    options = ["batch_size=1", "accumulation=2", "schedule=linear", "warmup=2", "learning_rate=0.01"]
    config = training(
        "fft",
        f"model.path={tmp_path / 'model'}",
        f"training.pairs.path={tmp_path / 'two.jsonl'}",
        *(f"training.fft.{option}" for option in options),
    )
    model = build(resolved(config)).model.load()
    losses, tokens = [], 0
    for prompt, answer in pairs.items():
        begun = model.tokenizer(prompt)["input_ids"]
        ids = [*model.tokenizer(f"{prompt} {answer}")["input_ids"], model.tokenizer.eos_token_id]
        logits = model.hf(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        losses += [-logits[place - 1, ids[place]].item() for place in range(len(begun), len(ids))]
        tokens += len(ids)
    launch(config, tmp_path)
    measured = rows(only_run(tmp_path))[1:]
    assert measured[0]["train/loss/step"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert [row["train/tokens/step"] for row in measured] == [tokens] * 6
    assert [row["tokens"] for row in measured] == [tokens * step for step in range(1, 7)]
    rates = [0.01 * min(step / 2, (6 - step) / (6 - 2)) for step in range(6)]  # step 0 takes no part of it
    assert [row["train/learning_rate/step"] for row in measured] == pytest.approx(rates)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop", "adagrad", "adafactor"])
def test_every_optimiser_lowers_the_loss(training: Composed, tmp_path: Path, optimizer: str):
    launch(training("fft", f"intervention/optimizer={optimizer}", "steps=12"), tmp_path)
    _, first, *_, last = rows(only_run(tmp_path))
    assert last["train/loss/step"] < first["train/loss/step"]


def test_weight_decay_alone_is_the_arithmetic_of_decay(training: Composed, tmp_path: Path):
    """AdamW's decoupled decay multiplies every matrix by 1 − η λ at each step, and the split says so."""
    rate, decay = 1e-2, 0.5
    options = [f"intervention.learning_rate={rate}", f"intervention.weight_decay={decay}"]
    schedule = ["intervention.schedule=constant", "intervention.warmup=0", "stage.norms.steps=true"]
    launch(training("decay", *options, *schedule), tmp_path)
    measured = rows(only_run(tmp_path))
    for step, row in enumerate(measured):
        shrunk = (1 - rate * decay) ** step
        assert row["norm/frobenius_ratio/edited"] == pytest.approx(shrunk, rel=1e-6)
    last, site = measured[-1], "mlp_down.01"
    assert last[f"norm/growth_cross/{site}"] < 0 < last[f"norm/growth_square/{site}"]
    # ‖Wₙ‖² = ‖W₀‖² + (1 + ρ) Σ‖Δ‖², Δ = −ηλ W
    factor = (1 - rate * decay) ** 2
    lengths = (rate * decay) ** 2 * (1 - factor ** (len(measured) - 1)) / (1 - factor)
    rho = (factor ** (len(measured) - 1) - 1) / lengths - 1
    assert last["norm/growth_rho/edited"] == pytest.approx(rho, rel=1e-3)


# --- going on after an interruption ---------------------------------------------------------------------


class Cut(Exception):
    """The power fails."""


def _cut_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the next run end abruptly once it has written so many rows."""
    append, written = RunDir.append, []

    def failing(self: RunDir, row: dict) -> None:
        append(self, row)
        written.append(row)
        if len(written) == count:
            raise Cut

    monkeypatch.setattr(RunDir, "append", failing)


CPT_THEN_LORA = "cpt_then_edit intervention@intervention.parts.second=lora"


BETWEEN = "edit_while_training intervention.every=2"


@pytest.mark.parametrize("intervention", ["cpt", "fft", "lora", "cpt_then_edit", CPT_THEN_LORA, BETWEEN])
@pytest.mark.parametrize("rows_before", [6, pytest.param(11, marks=pytest.mark.long)])
def test_an_interrupted_training_goes_on_with_the_same_numbers(
    training: Composed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    intervention: str,
    rows_before: int,
):
    choices = ["training.save_every=2", "training.adapter.dropout=0.2", "edits=2"]
    stages = ["stage=[norms,probes,efficacy,signatures]", "stage.signatures.norm_growth=1.00001"]
    stages += ["text.tokens=300", "stage.probes.samples=40", "stage.probes.cadence.every=2"]
    config = training(*intervention.split(), *choices, *stages, "steps=8")
    launch(config, tmp_path / "whole")
    rows_before = min(rows_before, len(rows(only_run(tmp_path / "whole"))) - 1)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        _cut_after(patch, rows_before)
        launch(config, tmp_path / "cut")
    assert (only_run(tmp_path / "cut") / "FAILED").is_file()
    launch(config, tmp_path / "cut")
    whole, cut = only_run(tmp_path / "whole"), only_run(tmp_path / "cut")
    assert timeless(rows(cut)) == timeless(rows(whole))
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, cut)]
    for key in ("parts", "alarms", "steps", "tokens", "edits", "objective"):
        assert summaries[0][key] == summaries[1][key], key
    one, two = (pd.read_parquet(folder / "probes.parquet") for folder in (whole, cut))
    pd.testing.assert_frame_equal(one, two)


def test_a_training_resumes_from_the_older_checkpoint(
    training: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """If the last checkpoint is incomplete, the one before is used, with the same numbers."""
    config = training("cpt", "training.save_every=2")
    launch(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        _cut_after(patch, 6)
        launch(config, tmp_path / "cut")
    state = only_run(tmp_path / "cut") / "state" / "0" / "checkpoint-4" / "run.json"
    state.write_text(state.read_text()[:20])
    with caplog.at_level("INFO"):
        launch(config, tmp_path / "cut")
    assert "checkpoint-4 cannot be used and is removed" in caplog.text and "checkpoint-2" in caplog.text
    assert timeless(rows(only_run(tmp_path / "cut"))) == timeless(rows(only_run(tmp_path / "whole")))


# --- sequences ------------------------------------------------------------------------------------------


def test_parts_follow_each_other_each_from_nought(training: Composed, tmp_path: Path):
    launch(training("cpt_then_edit", "edits=2"), tmp_path)
    measured = rows(only_run(tmp_path))
    assert [(row["part"], row[row["unit"]]) for row in measured] == [
        *((0, step) for step in range(7)), *((1, edits) for edits in range(3))
    ]  # fmt: skip
    assert measured[7]["norm/frobenius_ratio/static"] != 1  # still against the model before all of it
    assert measured[-1]["edit/success/seen.rewrite"] >= 0
    assert len(pd.read_parquet(only_run(tmp_path) / "records.parquet")) == 2


def test_edits_between_steps_come_when_it_is_time(training: Composed, tmp_path: Path):
    launch(training("edit_while_training", "intervention.every=2", "edits=8"), tmp_path)
    measured = rows(only_run(tmp_path))
    places = [(row["part"], row["steps"], row["edits"]) for row in measured]
    assert places[:6] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 2, 0), (1, 2, 1), (0, 3, 1)]
    assert places[-1] == (1, 6, 3)
    parts = json.loads((only_run(tmp_path) / "summary.json").read_text())["parts"]
    assert [(part["unit"], part["total"], part["count"]) for part in parts] == [
        ("steps", 6, 6),
        ("edits", 3, 3),
    ]


def test_edits_between_steps_go_on_from_before_the_first_edit(
    training: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = training("edit_while_training", "intervention.every=4", "edits=1", "training.save_every=2")
    launch(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        _cut_after(patch, 5)  # both starts and three steps
        launch(config, tmp_path / "cut")
    launch(config, tmp_path / "cut")
    assert timeless(rows(only_run(tmp_path / "cut"))) == timeless(rows(only_run(tmp_path / "whole")))


def test_edits_between_the_steps_of_an_adapter_are_refused(training: Composed, tmp_path: Path):
    with pytest.raises(ConfigError, match="trained in place"):
        launch(training("edit_while_training", "intervention@intervention.training=lora"), tmp_path)


# --- what a user may get wrong --------------------------------------------------------------------------


def test_a_run_is_not_told_apart_by_an_editor_that_it_does_not_use(training: Composed):
    one, two = (resolved(training("cpt", f"editor={editor}")) for editor in ("rome", "encore"))
    assert fingerprint(one) == fingerprint(two) and one["editor"] is None
    assert fingerprint(one) != fingerprint(resolved(training("cpt", "steps=7")))


@pytest.mark.parametrize(
    ("choices", "kind", "sentence"),
    [
        (["cpt", "training.cpt.length=65"], ConfigError, r"length=65, but random has 64 positions"),
        (["cpt", "steps=0"], ConfigError, r"intervention\.steps=0"),
        (["cpt", "intervention.warmup=3"], ConfigError, "constant_with_warmup"),
        (
            ["cpt", "intervention.trained.sites=[mlp_gate]"],
            ConfigError,
            "names mlp_gate, but the blocks of random",
        ),
        (["cpt", "intervention.trained.layers=[7]"], ConfigError, r"7.* but random has 4 blocks"),
        (
            ["lora", "training.adapter.sites=[mlp_gate]"],
            ConfigError,
            "names mlp_gate, but the blocks of random",
        ),
        (["cpt", "training.corpus.path=/nowhere.txt"], DataError, "/nowhere.txt does not exist"),
        (
            ["fft", "training.pairs.prompt=question"],
            DataError,
            "no text in column 'question'; it has prompt, com",
        ),
        (["fft", "training.fft.length=3"], DataError, "each of its 4 pairs has more than 3 tokens"),
        (["cpt", "+intervention.optimizer.options.momentum=1"], ConfigError, "AdamW says"),
        (["cpt", "model.dtype=bfloat16"], ConfigError, r"in bfloat16.*model\.dtype=float32"),
        (["cpt", "seed=-1"], ConfigError, r"seed=-1 has to be at least 0"),
        (["cpt", "+intervention.optimizer.options.lr=1"], ConfigError, r"intervention\.learning_rate"),
        (["cpt", "intervention.precision=float16"], ConfigError, "float16 needs a GPU"),
        (["hypernetwork"], ConfigError, "editor=memit has nothing to learn"),
        (["cpt", "intervention.optimizer.kind=Sgd"], ConfigError, "one of AdamW, Adam, SGD"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_before_anything_trains(
    training: Composed, tmp_path: Path, choices: list[str], kind: type[Exception], sentence: str
):
    with pytest.raises(kind, match=sentence):
        launch(training(*choices), tmp_path)
    assert not list(tmp_path.glob("test/*/metrics.jsonl"))


def test_an_empty_file_of_pairs_says_so(training: Composed, tmp_path: Path):
    config = training("fft")
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(DataError, match=r"nothing to train on in .*pairs.jsonl: it is empty"):
        launch(config, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_measured(
    training: Composed, tmp_path: Path
):
    with pytest.raises(NumericsError, match=r"loss of cpt is (nan|inf) at optimiser step \d: lower"):
        launch(training("cpt", "intervention.learning_rate=1e30", "intervention.clip=0"), tmp_path)
    folder = only_run(tmp_path)
    assert rows(folder)[0]["norm/frobenius_ratio/edited"] == 1 and (folder / "FAILED").is_file()


def test_adapters_that_diverge_say_so_too(training: Composed, tmp_path: Path):
    with pytest.raises(NumericsError, match=r"lora.* optimiser step \d.*lower intervention\.learning_rate"):
        launch(training("lora", "intervention.learning_rate=1e30", "stage=[norms]"), tmp_path)


def test_a_stopped_training_leaves_no_checkpoint_that_goes_past_the_alarm(
    training: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stop = ["stage=[norms,signatures]", "stage.signatures.norm_growth=1.00001", "training.save_every=1"]
    config = training("cpt", *stop, "stage.signatures.on_alarm=stop")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(RunDir, "finish", _cut)
        launch(config, tmp_path)
    launch(config, tmp_path)
    assert [row["steps"] for row in rows(only_run(tmp_path))] == [0, 1]
    assert json.loads((only_run(tmp_path) / "summary.json").read_text())["stopped"]


def _cut(*_: object, **__: object) -> None:
    raise Cut


def test_norms_between_edits_know_of_training_steps_that_nobody_measured(training: Composed, tmp_path: Path):
    rare = ["stage=[norms]", "stage.norms.cadence.every=4", "stage.norms.whole.every=0"]
    choices = ["intervention.every=3", "batch_size=4", "edits=8"]
    config = ["edit_while_training", "intervention.training.learning_rate=0.01", *choices]
    for name, more in {"rare": rare, "often": [rare[0], "stage.norms.whole.every=1"]}.items():
        launch(training(*config, *more), tmp_path / name)
    rare_rows, often_rows = (rows(only_run(tmp_path / name)) for name in ("rare", "often"))
    for one, two in zip(rare_rows, often_rows, strict=True):
        for key in [key for key in one if key.startswith("norm/frobenius/")]:
            assert one[key] == pytest.approx(two[key], rel=1e-5), (key, one["step"])


def test_a_training_that_does_not_fit_names_the_estimate_and_the_way_out(
    training: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.interventions.training.training_memory.free_memory", lambda model: 1000)
    with pytest.raises(ConfigError, match=r"needs about .* GiB beside the weights.*intervention=lora"):
        launch(training("cpt"), tmp_path)
    launch(training("cpt", "intervention.check_memory=false"), tmp_path)


# --- what is trained on ---------------------------------------------------------------------------------


class Lines:
    """A corpus of given documents."""

    label = "lines"

    def __init__(self, *documents: str) -> None:
        self.documents = documents

    def identity(self) -> str:
        return "lines"

    def __iter__(self):
        return iter(self.documents)


def test_packed_rows_join_the_documents():
    """Rows hold the documents one after another, with an end-of-text token after each."""
    model = tiny_model(kind="bos")
    texts = ("Rob is", "Ada Byron works", "English is spoken")
    dataset = PackedText(corpus=Lines(*texts), length=4).load(model, rows=100)
    joined = [token for text in texts for token in [*model.tokenizer(text)["input_ids"], 0]]
    assert all(row[0] == IGNORED for row in dataset["labels"])
    packed = [token for row in dataset["input_ids"] for token in row]
    assert packed == joined[: len(packed)] and len(joined) - len(packed) < 4
    assert [row[1:] for row in dataset["labels"]] == [row[1:] for row in dataset["input_ids"]]


def test_a_corpus_shorter_than_a_row_says_so():
    with pytest.raises(DataError, match=r"lines holds \d tokens, fewer than one row of 32"):
        PackedText(corpus=Lines("Rob"), length=32).load(tiny_model(), rows=4)


@pytest.mark.parametrize("kind", ["plain", "bos", "metaspace"])
def test_the_loss_reads_the_completion_and_the_end_alone(tmp_path: Path, kind: str):
    model = tiny_model(kind=kind)  # pyright: ignore
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"prompt": "Rob is", "completion": "a poet"}]))
    (row,) = Completions(pairs=PairRows(path=str(path)), length=64).load(model, rows=9)
    read = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert read == [label for label in row["labels"] if label != IGNORED]
    assert read[-1] == model.tokenizer.eos_token_id
    assert model.tokenizer.decode(read[:-1]).strip() == "a poet"


def test_a_chat_template_wraps_prompt_and_completion(tmp_path: Path):
    model = tiny_model(kind="bos")
    model.tokenizer.chat_template = (
        "<s>{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"prompt": "Rob is", "completion": "poet"}]))
    (row,) = Completions(pairs=PairRows(path=str(path)), length=64).load(model, rows=9)
    assert model.tokenizer.decode(row["input_ids"][:-1]).startswith("<s>[user] Rob is [assistant] poet")
    read = [label for label in row["labels"] if label != IGNORED]
    assert model.tokenizer.decode(read[:-1]).strip() == "poet"


def test_a_broken_line_of_pairs_is_named(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n')
    with pytest.raises(DataError, match=r"line 2 of .*pairs.jsonl is not a JSON object"):
        list(PairRows(path=str(path)))


@pytest.mark.parametrize(("context", "prompt"), [(None, "a"), (" ", "a"), (" c ", "a\nc")])
def test_a_context_follows_the_prompt_unless_it_is_blank(tmp_path: Path, context: str | None, prompt: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "more": context}))
    assert list(PairRows(path=str(path), context="more")) == [(prompt, "b")]
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "more": ["c"]}))
    with pytest.raises(DataError, match="no text in column 'more'"):
        list(PairRows(path=str(path), context="more"))


@pytest.mark.parametrize(
    ("text", "fault"), [("a\ud800", "half of a surrogate pair"), ("a\0b", "a NUL character")]
)
def test_text_that_was_decoded_wrongly_is_named(tmp_path: Path, text: str, fault: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": text}))
    with pytest.raises(DataError, match=rf"line 1 of .*pairs.jsonl: the text .* holds {fault}"):
        list(PairRows(path=str(path)))


def test_padding_is_neither_read_nor_trained_on():
    batch = collate([{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]


def test_an_optimiser_says_how_many_numbers_it_keeps():
    kept = {"AdamW": 2, "SGD": 0, "RMSprop": 1, "Adagrad": 1}
    assert {kind: Optimizer(kind=kind).states for kind in kept} == kept  # pyright: ignore
    assert Optimizer(kind="SGD", options={"momentum": 0.9}).states == 1


def test_sites_of_a_fused_module_are_trained_together():
    model = tiny_model("gpt2")
    assert {site.name for site in Weights(sites=["attn_q"]).named(model)} == {"attn_q", "attn_k", "attn_v"}
    assert {site.name for site in Weights(sites=["attn_q"]).named(tiny_model("llama"))} == {"attn_q"}
