"""Official prompts on local rows, groups, and the likelihoods that they are scored by."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import datasets
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean_stderr
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import apply_template

from analysis.stages.base import Measurement
from analysis.stages.downstream.lm import InMemoryLM, tokenize_requests
from analysis.stages.downstream.tasks.hub import HubTasks
from analysis.stages.downstream.tasks.local import LocalTasks
from analysis.stages.downstream.tasks.mmlu import LocalMMLU
from analysis.stages.downstream.tasks.official import harness_folder
from analysis.stages.downstream.tasks.papers import PaperTasks
from editors.models.loading import Checkpoint
from editors.models.model import Model
from pipeline.data.world.shipped_models import SHIPPED
from tests.analysis.task_files import (
    CHOICES,
    PAIRS,
    SINGLE,
    loaded,
    measured,
    prompts,
    write_lines,
    write_mmlu,
)
from tests.paths import SHARED
from tests.tiny import Kind, tiny_model

# --- likelihoods ---------------------------------------------------------------------------------------

TEXTS = ("Rob walks to", "The mother tongue is ", "Ada.\n", "", "People speak of the river where I live.")
LONG = "People speak of the river where I live. " * 9
# a choice that begins another one, one of several tokens, and one that is there twice
ENDS = (" town", " townhouse", " sea captain", " town")


def answered(model: Model, pairs: Sequence[tuple[str, str]]) -> tuple[list[float], list[float]]:
    """Likelihoods as we and as the harness' wrapper of Hugging Face models compute them."""
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    ours = InMemoryLM(requests, model, 200).loglikelihood(requests)
    theirs = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=4, backend="causal")
    theirs = theirs.loglikelihood(requests, disable_tqdm=True)
    assert [exact for _, exact in ours] == [exact for _, exact in theirs]
    return [value for value, _ in ours], [value for value, _ in theirs]


@pytest.mark.parametrize(
    ("family", "kind"),
    [("gpt2", "plain"), ("llama", "bos"), ("llama", "metaspace"), ("neox", "types")],
)
def test_likelihoods_are_those_of_the_harness_own_wrapper(family: str, kind: Kind):
    ours, theirs = answered(tiny_model(family, kind, double=False), list(product(TEXTS, ENDS)))
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("gpt2", "plain"), ("llama", "bos"), ("llama", "metaspace"), ("neox", "types")],
)
@pytest.mark.parametrize("until", [[], ["e"], ["the", "."]])
def test_texts_are_those_of_the_harness_own_wrapper(family: str, kind: Kind, until: list[str]):
    model = tiny_model(family, kind, double=False)
    options = {"until": until, "max_gen_toks": 9}
    contexts = [text for text in TEXTS if text] + [LONG]
    requests = [Instance("generate_until", {}, (text, options), i) for i, text in enumerate(contexts)]
    ours = InMemoryLM([], model, 200).generate_until(requests)
    harness = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=1, backend="causal")
    theirs = harness.generate_until(requests, disable_tqdm=True)
    assert ours == theirs and any(ours)


def test_a_prompt_that_is_cut_is_cut_alike():
    ours, theirs = answered(tiny_model(double=False), [(LONG, ENDS[1])])
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_choices_are_compared_after_the_same_text_where_it_is_cut():
    model = tiny_model(double=False)
    requests = [Instance("loglikelihood", {}, (LONG, end), i) for i, end in enumerate(ENDS)]
    ours = InMemoryLM(requests, model, 200)
    contexts = {query.context for query in tokenize_requests([r.args for r in requests], model)}
    assert len(contexts) == 1 and len(ours.loglikelihood(requests)) == len(ENDS)


def test_prompts_that_are_cut_are_counted_aloud(caplog: pytest.LogCaptureFixture):
    model = tiny_model(double=False)
    InMemoryLM([Instance("loglikelihood", {}, (LONG, " town"), 0)], model, 200)
    assert "1 of 1 prompts of downstream tasks are longer than the 64 tokens" in caplog.text


# --- official tasks on local rows ----------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sst2", "cola", "mrpc", "rte"])
def test_the_official_prompt_is_kept(task: str, glue: Path, tmp_path: Path):
    written = yaml.safe_load((harness_folder() / "glue" / task / "default.yaml").read_text())
    harness = loaded(LocalTasks(folder=str(glue), tasks=[task]), tmp_path)
    rows = PAIRS if task in ("mrpc", "rte") else SINGLE
    assert prompts(harness, task) == [apply_template(written["doc_to_text"], row) for row in rows]
    continuations = [instance.args[1] for instance in harness.tasks[task].instances[:2]]
    assert continuations == [f" {choice}" for choice in written["doc_to_choice"]]


def test_examples_are_the_first_rows_and_tests_those_after_them(glue: Path, tmp_path: Path):
    harness = loaded(LocalTasks(folder=str(glue), tasks=["rte"], shots=2), tmp_path)
    found = prompts(harness, "rte")
    examples = "Rob a.\nQuestion: Ada a. True or False?\nAnswer: True\n\n"
    examples += "Rob b.\nQuestion: Ada b. True or False?\nAnswer: True\n\n"
    assert found[0] == examples + "Rob c.\nQuestion: Ada c. True or False?\nAnswer:"
    assert len(found) == len(PAIRS) - 2 and all(text.startswith(examples) for text in found)


def test_a_function_of_the_official_file_is_kept_too(tmp_path: Path):
    rows = [{"premise": "Rob lives", "hypothesis": "Rob is dead", "label": 2}] * 2
    harness = loaded(LocalTasks(folder=str(write_lines(tmp_path, mnli=rows)), tasks=["mnli"]), tmp_path)
    assert prompts(harness, "mnli")[0] == "Rob lives\nQuestion: Rob is dead. True, False or Neither?\nAnswer:"


def test_metrics_are_the_official_ones_with_accuracy_for_cola(glue: Path):
    found = measured(LocalTasks(folder=str(glue)), tiny_model(double=False))
    metrics = {
        task: {key.split("/")[2] for key in found if f"/{task}/" in key} for task in ("cola", "mrpc", "rte")
    }
    always = {"acc", "auc", "stderr", "documents", "above_chance"}
    assert metrics == {"cola": always | {"mcc"}, "mrpc": always | {"f1"}, "rte": always}


def accuracies(found: Measurement) -> dict[str, object]:
    return {key.split("/")[1]: value for key, value in found.items() if key.endswith("/acc")}


# --- MMLU ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [True, False])
def test_mmlu_has_its_official_prompt_and_examples_of_the_same_subject(header: bool, tmp_path: Path):
    folder = str(write_mmlu(tmp_path, header, anatomy=3))
    (prompt, *_) = prompts(loaded(LocalMMLU(folder=folder, shots=1), tmp_path), "mmlu_anatomy")
    asked = "Who is 0?\nA. town\nB. river\nC. poet\nD. captain\nAnswer:"
    about = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    assert prompt == f"{about}{asked} A\n\n{asked}"


def test_a_group_counts_once_and_weighs_its_tasks_by_size(tmp_path: Path):
    model = tiny_model(double=False)
    folder = str(write_mmlu(tmp_path, anatomy=2, virology=9, formal_logic=5))
    found = measured(LocalMMLU(folder=folder, shots=0), model)
    alone = {
        subject: float(
            measured(LocalMMLU(folder=folder, subjects=[subject], shots=0), model)["downstream/mmlu/acc"]
        )
        for subject in ("anatomy", "virology", "formal_logic")
    }
    weighted = (2 * alone["anatomy"] + 9 * alone["virology"] + 5 * alone["formal_logic"]) / 16
    assert set(accuracies(found)) == {"mmlu", "mmlu_stem", "mmlu_other", "mmlu_humanities"}
    assert found["downstream/mmlu/acc"] == pytest.approx(weighted)
    assert found["downstream/mmlu/documents"] == 16 and found["downstream/mmlu_stem/documents"] == 2


def test_the_standard_error_of_a_group_of_one_task_is_the_task_s(tmp_path: Path):
    folder = str(write_mmlu(tmp_path, virology=9))
    found = measured(LocalMMLU(folder=folder, shots=0), tiny_model(double=False))
    hits = round(float(found["downstream/mmlu/acc"]) * 9)
    assert found["downstream/mmlu/stderr"] == pytest.approx(mean_stderr([1] * hits + [0] * (9 - hits)))


def test_a_subset_is_tested_with_examples_from_the_folder(tmp_path: Path):
    row = {"question": "Who?", "choices": CHOICES, "answer": 1}
    write_lines(tmp_path, subset=[{**row, "subject": s} for s in ("virology", "anatomy", "virology")])
    folder = str(write_mmlu(tmp_path, anatomy=1, virology=1))
    harness = loaded(LocalMMLU(folder=folder, subset=f"{tmp_path}/subset.jsonl", shots=1), tmp_path)
    assert len(prompts(harness, "mmlu_virology")) == 2 and "Who is 0?" in prompts(harness, "mmlu_anatomy")[0]


# --- the hub -------------------------------------------------------------------------------------------

FIELDS = "sentence sentence1 sentence2 question question1 question2 premise hypothesis".split()


def test_a_tag_of_the_hub_is_all_of_its_tasks_with_seeded_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [dict.fromkeys(FIELDS, f"Rob {word}") | {"label": i % 2} for i, word in enumerate("abcdefgh")]
    splits = ("train", "validation", "validation_matched", "validation_mismatched")
    monkeypatch.setattr("analysis.stages.downstream.tasks.hub._check_reachable", lambda *_: None)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda **_: dict.fromkeys(splits, datasets.Dataset.from_list(rows))
    )
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(loaded(HubTasks(tasks=["glue"], shots=2), tmp_path / name, limit=3))
    tasks = {"cola", "mnli", "mnli_mismatch", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli"}
    assert set(found[0].top) == tasks
    assert all(prompts(found[0], task) == prompts(found[1], task) for task in tasks)
    assert all(len(prompts(found[0], task)) == 3 for task in tasks)
    scores = found[0].score(tiny_model(double=False))
    assert set(scores["cola"].values) == {"acc", "auc", "mcc"}
    assert set(scores["mrpc"].values) == {"acc", "auc", "f1"}
    assert "auc" not in scores["mnli"].values  # three classes


ASKED = {"text": ["Rob", "the captain"], "label": ["A", "B"]}
HUB: dict[str, tuple[str, dict[str, object], list[tuple[str, str]]]] = {
    "arc_easy": (
        "allenai/ai2_arc",
        {"question": "Who walks?", "choices": ASKED, "answerKey": "B"},
        [("Question: Who walks?\nAnswer:", " Rob"), ("Question: Who walks?\nAnswer:", " the captain")],
    ),
    "piqa": (
        "baber/piqa",
        {"goal": "How to walk?", "sol1": "On a river", "sol2": "On land", "label": 1},
        [("Question: How to walk?\nAnswer:", " On a river"), ("Question: How to walk?\nAnswer:", " On land")],
    ),
    "copa": (
        "aps/super_glue",
        {"premise": "Rob walks.", "choice1": "Ada.", "choice2": "Bob.", "question": "cause", "label": 0},
        [("Rob walks because", "  ada."), ("Rob walks because", "  bob.")],
    ),
    "openbookqa": (
        "allenai/openbookqa",
        {"question_stem": "Rob is", "choices": ASKED, "answerKey": "A"},
        [("Rob is", " Rob"), ("Rob is", " the captain")],
    ),
    "wsc273": (
        "lighteval/winograd_wsc",
        {"text": "Rob saw Ada so he left.", "pronoun": "he", "pronoun_loc": 15, "options": ["Rob", "Ada"]}
        | {"label": 0},
        [("Rob saw Ada so Rob", "  left."), ("Rob saw Ada so Ada", "  left.")],
    ),
    "lambada_openai": (
        "EleutherAI/lambada_openai",
        {"text": "Rob lives in a town"},
        [("Rob lives in a", " town")],
    ),
    "blimp_causative": (
        "nyu-mll/blimp",
        {"sentence_good": "Rob walks.", "sentence_bad": "Rob walk."},
        [("", " Rob walks."), ("", " Rob walk.")],
    ),
}
"""Data set, a row of it, and its requests, by task."""


def test_benchmarks_of_the_hub_are_asked_as_lm_eval_defines_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = {name: datasets.Dataset.from_list([row] * 2) for name, row, _ in HUB.values()}
    splits = ("train", "validation", "test")
    monkeypatch.setattr("analysis.stages.downstream.tasks.hub._check_reachable", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **_: dict.fromkeys(splits, rows[path]))
    harness = loaded(HubTasks(tasks=list(HUB)), tmp_path, limit=1)
    requests = {name: [instance.args for instance in task.instances] for name, task in harness.tasks.items()}
    assert requests == {name: expected for name, (_, _, expected) in HUB.items()}
    scores = harness.score(tiny_model(double=False))
    assert all("acc" in score.values for score in scores.values())
    by_length = {name for name, score in scores.items() if "acc_norm" in score.values}
    assert by_length == {"arc_easy", "piqa", "openbookqa"}


# --- real data -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["stories260k", "tiny-gpt2"])
def real(request: pytest.FixtureRequest) -> Model:
    """A trained model, its data beside it."""
    path = SHARED / "models" / "stories260k"
    if not path.is_dir():
        pytest.skip("no shared data")
    if request.param == "tiny-gpt2":
        path = SHIPPED / "tiny-gpt2"
    return Checkpoint(name=request.param, path=str(path), device="cpu").load()


@pytest.mark.shared
def test_mmlu_has_all_its_subjects(real: Model):
    found = measured(LocalMMLU(folder=str(SHARED / "data" / "mmlu"), shots=0, limit=2), real)
    assert found["downstream/mmlu/documents"] == 57 * 2
    assert 0.1 < float(found["downstream/mmlu/acc"]) < 0.45
    assert 0.02 < float(found["downstream/mmlu/stderr"]) < 0.06


@pytest.mark.shared
def test_the_papers_subset_of_mmlu_has_them_too():
    if not SHARED.is_dir():
        pytest.skip("no shared data")
    folder = SHARED / "data" / "mmlu"
    source = LocalMMLU(folder=str(folder), subset=str(folder / "mmlu_paper_subset.jsonl"), shots=0)
    found = measured(source, tiny_model(double=False), limit=1)
    assert found["downstream/mmlu/documents"] == 57 and "downstream/mmlu/stderr" not in found


@pytest.mark.shared
def test_glue_and_the_papers_tasks_are_near_chance_on_real_models(real: Model):
    folder = str(SHARED / "data" / "glue")
    files = {"sst": "sst2.jsonl", "mmlu": "../mmlu/mmlu_paper_subset.jsonl"}
    found = measured(LocalTasks(folder=folder), real, limit=20)
    found |= measured(PaperTasks(folder=folder, files=files, shots=0, limit=20), real)
    for task in ("sst2", "cola", "mrpc", "rte", "papers_sst", "papers_rte", "papers_nli"):
        assert found[f"downstream/{task}/documents"] == 20
        assert 0.1 < float(found[f"downstream/{task}/acc"]) < 0.9
    assert float(found["downstream/papers_mmlu/acc"]) < 0.5
