"""The papers' tasks, and what is said of a source that cannot be read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.stages.downstream.stage import Downstream
from analysis.stages.downstream.tasks.hub import HubTasks
from analysis.stages.downstream.tasks.local import LocalTasks
from analysis.stages.downstream.tasks.mmlu import LocalMMLU
from analysis.stages.downstream.tasks.papers import PaperTasks, weighted_f1
from analysis.stages.downstream.tasks.source import TaskSource
from editors.errors import ConfigError, DataError
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
from tests.tiny import tiny_model


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """Six files of fourteen rows."""
    named = [row | {"label": ("entailment", "not_entailment")[int(row["label"])]} for row in PAIRS * 2]
    asked = [{"question": "Who?", "choices": CHOICES, "answer": i % 4, "subject": "x"} for i in range(14)]
    return write_lines(
        tmp_path, sst=(SINGLE * 2)[:14], cola=(SINGLE * 2)[:14], mrpc=(PAIRS * 2)[:14], rte=(PAIRS * 2)[:14],
        nli=named[:14], mmlu=asked,
    )  # fmt: skip


def test_the_papers_tasks_test_the_rows_after_the_tenth_and_report_f1(papers: Path):
    found = measured(PaperTasks(folder=str(papers)), tiny_model(double=False))
    for task in ("sst", "mrpc", "cola", "rte", "nli", "mmlu"):
        assert found[f"downstream/papers_{task}/documents"] == 4
        assert 0 <= float(found[f"downstream/papers_{task}/f1"]) <= 1


def test_entailment_is_true_and_the_legacy_verbaliser_calls_it_false(papers: Path, tmp_path: Path):
    right, wrong = (
        loaded(PaperTasks(folder=str(papers), tasks=["rte", "nli"], shots=1, rte_verbaliser=v), folder)
        for v, folder in (("correct", tmp_path), ("legacy", papers / "legacy"))
        if folder.mkdir(exist_ok=True) is None
    )
    assert prompts(right, "papers_rte")[0].startswith(
        "Rob a.\nquestion: Ada a. True or False?\nanswer: True\n\n"
    )
    assert prompts(wrong, "papers_rte")[0] == prompts(right, "papers_rte")[0].replace(
        "answer: True", "answer: False"
    )
    assert prompts(right, "papers_nli") == prompts(wrong, "papers_nli")
    assert prompts(right, "papers_nli")[0].startswith(
        "Rob a. entails the Ada a. True or False? answer: True\n\n"
    )


def test_without_examples_the_legacy_verbaliser_turns_every_answer_round(papers: Path):
    model = tiny_model(double=False)
    right, wrong = (
        measured(PaperTasks(folder=str(papers), tasks=["rte"], shots=0, rte_verbaliser=v), model)
        for v in ("correct", "legacy")
    )
    assert right["downstream/papers_rte/acc"] == pytest.approx(1 - float(wrong["downstream/papers_rte/acc"]))


def test_weighted_f1_counts_a_label_by_its_frequency():
    """It is 1 if all answers are right."""
    assert weighted_f1([(0, 0), (1, 1), (2, 2)]) == 1
    # label 0: precision 3/4, recall 1; label 1 is never found
    assert weighted_f1([(0, 0), (0, 0), (0, 0), (1, 0)]) == pytest.approx(0.75 * 6 / 7)


# --- bad input -----------------------------------------------------------------------------------------

Bad = tuple[Callable[[Path], TaskSource], type[Exception], str]
BAD: dict[str, Bad] = {
    "an unknown task": (
        lambda p: LocalTasks(folder=str(p), tasks=["sst"]), ConfigError,
        "tasks: sst is no task .* did you mean sst2"),
    "no task": (lambda p: LocalTasks(folder=str(p), tasks=[]), ConfigError, "tasks is empty"),
    "an unknown folder of tasks": (
        lambda p: LocalTasks(folder=str(p), folders=["gleu"]), ConfigError,
        "folders: gleu .* did you mean glue"),
    "a missing file": (
        lambda p: LocalTasks(folder=str(p), tasks=["qnli"]), DataError,
        r"tasks\.x\.folder: \S*qnli\.jsonl is no file"),
    "a missing folder": (lambda p: LocalTasks(folder="nowhere"), DataError, "folder=nowhere is no folder"),
    "a wrong field": (
        lambda p: LocalTasks(folder=str(p), tasks=["rte"], files={"rte": "sst2.jsonl"}), DataError,
        "row 1 has no field 'sentence1', only sentence, label"),
    "a wrong field of a function's prompt": (
        lambda p: LocalTasks(folder=str(p), tasks=["mnli"], files={"mnli": "rte.jsonl"}), DataError,
        "no field 'premise'"),
    "labels that are none": (
        lambda p: LocalTasks(folder=str(write_lines(p, sst2=[SINGLE[0] | {"label": -1}])), tasks=["sst2"]),
        DataError, "row 1 has label=-1, but it has to be 0 to 1"),
    "negative shots": (lambda p: LocalTasks(folder=str(p), shots=-1), ConfigError, "shots=-1"),
    "no documents": (lambda p: LocalTasks(folder=str(p), limit=0), ConfigError, "limit=0"),
    "more shots than rows": (
        lambda p: LocalTasks(folder=str(p), shots=8), ConfigError, "has 8 rows, but the first 8"),
    "a broken line": (
        lambda p: LocalTasks(folder=str(p), tasks=["sst2"], files={"sst2": "broken.jsonl"}), DataError,
        "line 2 of .* is no JSON object"),
    "MMLU without a folder": (lambda p: LocalMMLU(), ConfigError, "folder is not set"),
    "an MMLU folder without tables": (lambda p: LocalMMLU(folder=str(p)), DataError, "test is no folder"),
    "an unknown subject": (
        lambda p: LocalMMLU(folder=str(write_mmlu(p, anatomi=1))), ConfigError, "did you mean mmlu_anatomy"),
    "a subject that is not there": (
        lambda p: LocalMMLU(folder=str(write_mmlu(p, anatomy=1)), subjects=["virology"]), ConfigError,
        "subjects: virology is not in the files"),
    "more shots than MMLU's examples": (
        lambda p: LocalMMLU(folder=str(write_mmlu(p, anatomy=1)), shots=6), ConfigError,
        "shots=6, but .* 5 rows"),
    "an unknown paper task": (
        lambda p: PaperTasks(folder=str(p), tasks=["boolq"]), ConfigError, "boolq is none of sst, mrpc"),
    "no paper task": (
        lambda p: PaperTasks(folder=str(p), tasks=[]), ConfigError, "tasks is empty; give .* sst, mrpc"),
    "more shots than rows held out": (
        lambda p: PaperTasks(folder=str(p), shots=11), ConfigError, "only the first 10 rows"),
    "an unknown official task": (
        lambda p: HubTasks(tasks=["mmlu_anatmy"]), ConfigError, "did you mean mmlu_anatomy"),
    "no hub": (lambda p: HubTasks(tasks=["rte"]), DataError, r"tasks\.x: .*nyu-mll/glue .*network"),
    "no hub for a group": (
        lambda p: HubTasks(tasks=["mmlu"], folders=["mmlu/default"]), DataError, "cais/mmlu"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_it_is_one_sentence_for(case: str, glue: Path):
    (glue / "broken.jsonl").write_text('{"sentence": "x", "label": 0}\n{"sentence"\n')
    make, kind, sentence = BAD[case]
    with pytest.raises(kind, match=sentence) as caught:
        stage = Downstream(tasks={"x": make(glue)})
        stage.prepare(tiny_model(double=False))
    assert "\n" not in str(caught.value)


def test_an_official_task_reaches_the_hub_only_after_its_name_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "analysis.stages.downstream.tasks.hub._check_reachable", lambda *_: pytest.fail("it was asked")
    )
    with pytest.raises(ConfigError):
        Downstream(tasks={"x": HubTasks(tasks=["mmul"])})
