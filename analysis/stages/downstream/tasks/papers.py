"""The six tasks on which the editing papers report scores (arXiv 2502.01636), with their prompt formats.

A choice is scored by the likelihood of its label. The first `held_out` rows of a file are reserved for
examples, of which the first `shots` are used; the rows after them are tested. Deviations from the papers:
labels of several tokens are compared by their total likelihood, not by the mean over tokens; generated text
is not parsed; the CoLA prompt does not end in a space. The public code maps RTE's label 0 (entailment) to the
word "False"; `rte_verbaliser=legacy` reproduces this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, SupportsInt, get_args

from analysis.stages.downstream.tasks.source import (
    ACC,
    Row,
    TaskFiles,
    check_answers,
    check_counts,
    check_fields,
    existing_folder,
    function_tag,
    read_lines,
    split_examples,
    tested_and_examples,
    write_task,
)
from editors.errors import ConfigError

Verbaliser = Literal["correct", "legacy"]


@dataclass(frozen=True, kw_only=True)
class PromptShape:
    """A prompt template filled from the fields of a row, and the answer choices."""

    text: str
    """Template of the prompt."""
    fields: Sequence[str]
    """Fields that the template uses."""
    choices: Sequence[str]
    """Answer words in the order of the label numbers."""
    labels: Sequence[str] = ()
    """Label names in the order of their numbers, for files that store names.

    Empty if the file stores numbers.
    """
    answer: str = "label"
    """Field of the label."""

    def convert(self, rows: Sequence[Row], location: str) -> Sequence[Row]:
        """Rows reduced to the prompt's fields and `answer`, the index of the correct choice.

        Raises:
            DataError: for a missing field or an invalid label.
        """
        check_fields(rows, [*self.fields, self.answer], location)
        numbers = {name: number for number, name in enumerate(self.labels)}
        converted = [
            {name: row[name] for name in self.fields} | {"answer": numbers.get(str(label), label)}
            for row in rows
            for label in [row[self.answer]]
        ]
        check_answers(converted, "answer", len(self.choices), location)
        return converted


SHAPES: Mapping[str, PromptShape] = {
    "sst": PromptShape(
        text="Review : {{sentence.strip()}}\nSentiment :",
        fields=("sentence",),
        choices=("negative", "positive"),
    ),
    "mrpc": PromptShape(
        text="Are the sentences paraphrases of each other.\nSentence 1: {{sentence1}}\n"
        "Sentence 2: {{sentence2}}\nAnswer:",
        fields=("sentence1", "sentence2"),
        choices=("No", "Yes"),
    ),
    "cola": PromptShape(
        text="Is this sentence linguistically acceptable?\nSentence: {{sentence}}\nAnswer:",
        fields=("sentence",),
        choices=("No", "Yes"),
    ),
    "rte": PromptShape(
        text="{{sentence1}}\nquestion: {{sentence2}} True or False?\nanswer:",
        fields=("sentence1", "sentence2"),
        choices=("True", "False"),
    ),
    "nli": PromptShape(
        text="{{sentence1}} entails the {{sentence2}} True or False? answer:",
        fields=("sentence1", "sentence2"),
        choices=("True", "False"),
        labels=("entailment", "not_entailment"),
    ),
    "mmlu": PromptShape(
        text="Question: {{question}}\n(A) {{choices[0]}}\n(B) {{choices[1]}}\n(C) {{choices[2]}}\n"
        "(D) {{choices[3]}}\nAnswer:",
        fields=("question", "choices"),
        choices=("A", "B", "C", "D"),
        answer="answer",
    ),
}
"""Prompts by task. GLUE's label 0: a negative review, no paraphrase, an unacceptable sentence, entailment."""


@dataclass(frozen=True, kw_only=True)
class PaperTasks:
    """Any of the six tasks, read from local JSON-lines files; accuracy and F1 are reported."""

    folder: str
    """Folder of the files."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File names that differ from `<task>.jsonl`, by task; relative to `folder` or absolute."""
    tasks: Sequence[str] = tuple(SHAPES)
    """Tasks to test."""
    shots: int = 4
    """Number of solved examples before each question."""
    held_out: int = 10
    """Rows at the start of a file that are reserved for examples and never tested."""
    limit: int | None = 100
    """Maximum number of rows tested per task; None for the stage's limit."""
    rte_verbaliser: Verbaliser = "correct"
    """`legacy` swaps the label words of RTE, as the public code does."""
    prefix: str = "papers_"
    """Prefix that distinguishes the names from those of the harness' own tasks."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write a file for each task.

        Raises:
            ConfigError: for an unknown task or verbaliser, and for more examples than are held out.
            DataError: for a missing file, a missing field, or a label that matches no choice.
        """
        self._check(option)
        source_folder = existing_folder(self.folder, f"{option}.folder")
        for name in self.tasks:
            path = source_folder / self.files.get(name, f"{name}.jsonl")
            shape = SHAPES[name]
            if name == "rte" and self.rte_verbaliser == "legacy":
                shape = _with_label_words_swapped(shape)
            rows = shape.convert(read_lines(path, f"{option}.folder"), f"{path} for {name}")
            examples, test_rows = split_examples(rows, self.held_out, self.shots, f"{option}.folder: {path}")
            config = _task_config(shape, has_examples=bool(examples))
            write_task(folder, self.prefix + name, config, tested_and_examples(test_rows, examples))
        names = tuple(self.prefix + name for name in self.tasks)
        return TaskFiles(names=names, shots=self.shots, limit=self.limit)

    def _check(self, option: str) -> None:
        check_counts(self.shots, self.limit, option)
        if not self.tasks:
            raise ConfigError(f"{option}.tasks is empty; give at least one of {', '.join(SHAPES)}")
        if unknown := [name for name in self.tasks if name not in SHAPES]:
            raise ConfigError(f"{option}.tasks: {', '.join(unknown)} is none of {', '.join(SHAPES)}")
        if self.shots > self.held_out:
            raise ConfigError(
                f"{option}.shots={self.shots}, but only the first {self.held_out} rows are reserved for "
                f"examples; raise {option}.held_out"
            )
        if self.rte_verbaliser not in get_args(Verbaliser):
            raise ConfigError(
                f"{option}.rte_verbaliser={self.rte_verbaliser}, but it has to be one of "
                f"{', '.join(get_args(Verbaliser))}"
            )


def weighted_f1(pairs: Sequence[tuple[SupportsInt, SupportsInt]]) -> float:
    """F1 of each label, weighted by the number of rows with that label.

    `pairs` are (expected, predicted) labels.
    """
    from sklearn.metrics import f1_score  # here, because it takes a second

    expected, predicted = zip(*pairs, strict=True)
    return float(f1_score(expected, predicted, average="weighted", zero_division=0.0))  # pyright: ignore


def _with_label_words_swapped(shape: PromptShape) -> PromptShape:
    """The same prompt with its label words in reverse order."""
    return replace(shape, choices=tuple(reversed(shape.choices)))


def _task_config(shape: PromptShape, *, has_examples: bool) -> dict[str, object]:
    """The task file of the harness for a prompt, without the entries that `write_task` adds."""
    return {
        "test_split": "tested",
        **({"fewshot_split": "examples"} if has_examples else {}),
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "doc_to_text": shape.text,
        "doc_to_choice": list(shape.choices),
        "doc_to_target": "answer",
        "metric_list": [
            ACC,
            {
                "metric": "f1",
                "aggregation": function_tag(f"{__name__}.weighted_f1"),
                "higher_is_better": True,
            },
        ],
        "metadata": {"version": 1.0},
    }
