"""Benchmarks from local files: what each layout asks, how it is scored, and what is said of another one."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from analysis.inference.scoring import Scorer
from analysis.stages.base import Measurement
from analysis.stages.downstream.tasks.benchmarks import BenchmarkTasks
from editors.errors import ConfigError, DataError
from editors.models.model import Model
from tests.analysis.task_files import loaded, measured, write_lines
from tests.tiny import tiny_model

QUERY = {"query": "Question: Who walks?\n", "choices": ["Rob", "the sea captain"], "gold": 1}
WINOGRAD = {"context_options": ["Rob saw Ada, so Rob", "Rob saw Ada, so Ada"], "continuation": "walks."}
PAIR = {"good": "Rob walks.", "bad": "Rob walk."}
Rows = Sequence[Mapping[str, object]]


def asked(folder: Path, *rows: Mapping[str, object], **options: object) -> list[tuple[str, str]]:
    source = BenchmarkTasks(folder=str(write_lines(folder, task=rows)), tasks=["task"], **options)  # pyright: ignore[reportArgumentType]
    return [instance.args for instance in loaded(source, folder).tasks["task"].instances]


def scored(folder: Path, model: Model, rows: Rows, **options: object) -> Measurement:
    source = BenchmarkTasks(folder=str(write_lines(folder, task=rows)), tasks=["task"], **options)  # pyright: ignore[reportArgumentType]
    return measured(source, model)


@pytest.mark.parametrize(
    ("row", "requests"),
    [
        (QUERY, [("Question: Who walks?\nA:", " Rob"), ("Question: Who walks?\nA:", " the sea captain")]),
        (
            WINOGRAD | {"gold": 1},
            [("Rob saw Ada, so Rob", " walks."), ("Rob saw Ada, so Ada", " walks.")],
        ),
        ({"context": "Rob lives in a ", "continuation": "town"}, [("Rob lives in a", " town")]),
        (PAIR | {"field": "syntax"}, [("", " Rob walks."), ("", " Rob walk.")]),
    ],
)
def test_a_layout_is_recognised_and_asks(tmp_path: Path, row: Mapping[str, object], requests: list):
    assert asked(tmp_path, row, cues={"task": "\nA:"}) == requests


def test_a_sentence_with_a_label_is_one_text_without_a_context(tmp_path: Path):
    rows = [{"sentence": f"Rob {word}.", "label": i} for i, word in enumerate(("walks", "walk"))]
    assert asked(tmp_path, *rows) == [("", " Rob walks."), ("", " Rob walk.")]


def test_the_right_context_and_the_better_sentence_are_the_likelier_ones(tmp_path: Path):
    model = tiny_model(double=False)
    contexts = WINOGRAD["context_options"]
    likelihoods = Scorer(model).score([(text, "walks.") for text in contexts]).log_probability
    for gold in (0, 1):
        found = scored(tmp_path, model, [WINOGRAD | {"gold": gold}])
        assert found["downstream/task/acc"] == float(likelihoods.argmax() == gold)
    turned = {"good": PAIR["bad"], "bad": PAIR["good"]}
    found = [scored(tmp_path, model, [pair, {"good": "Rob.", "bad": "Ada."}]) for pair in (PAIR, turned)]
    first, second = (float(each["downstream/task/acc"]) for each in found)
    assert abs(first - second) == 0.5


def test_choices_are_compared_letter_by_letter_where_this_is_asked_for(tmp_path: Path):
    model = tiny_model(double=False)
    (short, long), text = QUERY["choices"], "Question: Who walks?"
    scores = Scorer(model).score([(text, short), (text, long)])
    tokens = [len(ids) for ids in scores.choices]
    total = [float(mean) * count for mean, count in zip(scores.log_probability, tokens, strict=True)]
    assert total[0] > total[1] and total[0] / len(short) < total[1] / len(long)
    assert scored(tmp_path, model, [QUERY])["downstream/task/acc"] == 0
    found = scored(tmp_path, model, [QUERY] * 30, by_length=["task"])
    assert found["downstream/task/acc_norm"] == 1 and found["downstream/mean/acc"] == 1
    assert "downstream/task/acc" not in found and found["downstream/task/above_chance"] == 1


def test_labels_are_told_by_the_likelihood_of_their_sentences(tmp_path: Path):
    model = tiny_model(double=False)
    rows = [
        {"sentence": f"Rob {word} .", "label": i % 2} for i, word in enumerate("lives sees is a on".split())
    ]
    area = scored(tmp_path, model, rows)
    turned = scored(tmp_path, model, [row | {"label": 1 - int(str(row["label"]))} for row in rows])
    assert float(area["downstream/task/auc"]) == pytest.approx(1 - float(turned["downstream/task/auc"]))
    assert not {"downstream/task/acc", "downstream/task/log_likelihood"} & area.keys()
    with pytest.raises(DataError, match="label=0 in all of its 1 documents"):
        scored(tmp_path, model, rows, limit=1)


@pytest.mark.parametrize("limit", [5, 9, 40])
def test_any_number_of_first_documents_is_spread_evenly(tmp_path: Path, limit: int):
    rows = [{"context": str(i), "continuation": "a"} for i in range(100)]
    places = sorted(int(context) for context, _ in asked(tmp_path, *rows, limit=limit))
    assert len(set(places)) == limit
    # the three-distance theorem
    assert max(b - a for a, b in pairwise([0, *places, 100])) <= 2 * 100 / limit


WRONG: Mapping[str, tuple[Rows, str]] = {
    "no layout": ([{"question": "Who?"}], "row 1 of .*has the fields question, .*query, choices, gold; or"),
    "a row of another layout": ([QUERY, PAIR], "row 2 has no field 'query', only good, bad"),
    "one choice": ([QUERY | {"choices": ["Rob"]}], r"row 1 has choices=\['Rob'\], but .* two texts or more"),
    "an empty choice": ([QUERY | {"choices": ["Rob", " "]}], "row 1 has choices=.* two texts or more"),
    "an answer that is none": ([QUERY, QUERY | {"gold": 2}], "row 2 has gold=2, but .* of one of choices"),
    "an answer in words": ([QUERY | {"gold": "Rob"}], "row 1 has gold='Rob', but .* of one of choices"),
    "no text": ([{"context": "", "continuation": "a"}], "row 1 has context='', but it has to be a text"),
    "a label that is none": ([{"sentence": "Rob.", "label": -1}], "row 1 has label=-1, but .* 0 or 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_told_with_row_and_field(case: str, tmp_path: Path):
    rows, sentence = WRONG[case]
    with pytest.raises(DataError, match=sentence) as caught:
        asked(tmp_path, *rows)
    assert "\n" not in str(caught.value)


def test_the_problems_of_all_files_are_told_at_once(tmp_path: Path):
    folder = write_lines(tmp_path, one=[PAIR], two=[{"question": "Who?"}])
    with pytest.raises(DataError) as caught:
        BenchmarkTasks(folder=str(folder), tasks=["one", "two", "three"]).write(tmp_path, "tasks.x")
    assert [line.split(" of ")[0] for line in str(caught.value).splitlines()] == [
        "tasks.x.folder: row 1",
        f"tasks.x.folder: {folder}/three.jsonl is no file (now in {Path.cwd()}); give the path",
    ]


def test_tasks_have_to_be_named_and_only_choices_have_lengths(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"tasks\.x\.tasks is empty"):
        BenchmarkTasks(folder=str(tmp_path), tasks=[]).write(tmp_path, "tasks.x")
    with pytest.raises(ConfigError, match=r"tasks\.x\.by_length: task has no choices"):
        asked(tmp_path, {"context": "Rob", "continuation": "a"}, by_length=["task"])
