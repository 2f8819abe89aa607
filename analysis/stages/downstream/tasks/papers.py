"""The six tasks that the editing papers score (arXiv 2502.01636), with prompts of their shape.

A choice is scored by the likelihood of its label. The first `held_out` rows of a file are kept for examples,
the first `shots` of them are used; tests start after them. Deviations: labels of several tokens are compared
by their total likelihood, not by the mean over tokens; what a model generates is not parsed; the cue of CoLA
ends in no space. The public code shows RTE's label 0, which is entailment, as "False": `legacy` does so too.
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
    function,
    read_lines,
    split_off,
    write_task,
)
from editors.errors import ConfigError

Verbaliser = Literal["correct", "legacy"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A prompt over the fields of a row, and what follows it."""

    text: str
    fields: Sequence[str]
    choices: Sequence[str]
    """By label."""
    labels: Sequence[str] = ()
    """Names of the labels where a file has names."""
    answer: str = "label"

    def read(self, found: Sequence[Row], where: str) -> Sequence[Row]:
        """The rows with their fields and the number of the right choice; raises DataError."""
        check_fields(found, [*self.fields, self.answer], where)
        numbers = {name: number for number, name in enumerate(self.labels)}
        kept = [
            {name: row[name] for name in self.fields} | {"answer": numbers.get(str(label), label)}
            for row in found
            for label in [row[self.answer]]
        ]
        check_answers(kept, "answer", len(self.choices), where)
        return kept


SHAPES: Mapping[str, Shape] = {
    "sst": Shape(
        text="Review : {{sentence.strip()}}\nSentiment :",
        fields=("sentence",),
        choices=("negative", "positive"),
    ),
    "mrpc": Shape(
        text="Are the sentences paraphrases of each other.\nSentence 1: {{sentence1}}\n"
        "Sentence 2: {{sentence2}}\nAnswer:",
        fields=("sentence1", "sentence2"),
        choices=("No", "Yes"),
    ),
    "cola": Shape(
        text="Is this sentence linguistically acceptable?\nSentence: {{sentence}}\nAnswer:",
        fields=("sentence",),
        choices=("No", "Yes"),
    ),
    "rte": Shape(
        text="{{sentence1}}\nquestion: {{sentence2}} True or False?\nanswer:",
        fields=("sentence1", "sentence2"),
        choices=("True", "False"),
    ),
    "nli": Shape(
        text="{{sentence1}} entails the {{sentence2}} True or False? answer:",
        fields=("sentence1", "sentence2"),
        choices=("True", "False"),
        labels=("entailment", "not_entailment"),
    ),
    "mmlu": Shape(
        text="Question: {{question}}\n(A) {{choices[0]}}\n(B) {{choices[1]}}\n(C) {{choices[2]}}\n"
        "(D) {{choices[3]}}\nAnswer:",
        fields=("question", "choices"),
        choices=("A", "B", "C", "D"),
        answer="answer",
    ),
}
"""By task; 0 is GLUE's label of a negative review, no paraphrase, an unacceptable sentence, entailment."""


@dataclass(frozen=True, kw_only=True)
class PaperTasks:
    """Any of the six, on local files of JSON lines; F1 is told beside accuracy."""

    folder: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Files with another name than `<task>.jsonl`, by task; relative to `folder` or absolute."""
    tasks: Sequence[str] = tuple(SHAPES)
    shots: int = 4
    held_out: int = 10
    limit: int | None = 100
    rte_verbaliser: Verbaliser = "correct"
    prefix: str = "papers_"
    """Keeps the names apart from those of the harness' own tasks."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """A file for each task.

        Raises:
            ConfigError: for an unknown task or verbaliser, and for more examples than are held out.
            DataError: for a missing file, a missing field, or an answer that is no choice's number.
        """
        self._check(option)
        home = existing_folder(self.folder, f"{option}.folder")
        for name in self.tasks:
            path = home / self.files.get(name, f"{name}.jsonl")
            shape = _verbalised(SHAPES[name], legacy=name == "rte" and self.rte_verbaliser == "legacy")
            found = shape.read(read_lines(path, f"{option}.folder"), f"{path} for {name}")
            examples, tested = split_off(found, self.held_out, self.shots, f"{option}.folder: {path}")
            write_task(folder, self.prefix + name, _content(shape, bool(examples)), _splits(examples, tested))
        names = tuple(self.prefix + name for name in self.tasks)
        return TaskFiles(names=names, shots=self.shots, limit=self.limit)

    def _check(self, option: str) -> None:
        check_counts(self.shots, self.limit, option)
        unknown = [name for name in self.tasks if name not in SHAPES]
        if unknown or not self.tasks:
            raise ConfigError(
                f"{option}.tasks: {', '.join(unknown) or 'nothing'} is none of {', '.join(SHAPES)}"
            )
        if self.shots > self.held_out:
            raise ConfigError(
                f"{option}.shots={self.shots}, but only the first {self.held_out} rows are kept for "
                f"examples; raise {option}.held_out"
            )
        if self.rte_verbaliser not in get_args(Verbaliser):
            raise ConfigError(
                f"{option}.rte_verbaliser={self.rte_verbaliser}, but it is one of "
                f"{', '.join(get_args(Verbaliser))}"
            )


def weighted_f1(pairs: Sequence[tuple[SupportsInt, SupportsInt]]) -> float:
    """F1 of each label, weighted by how often it is right; of (right, chosen) pairs."""
    from sklearn.metrics import f1_score  # here, because it takes a second

    right, found = zip(*pairs, strict=True)
    return float(f1_score(right, found, average="weighted", zero_division=0.0))  # pyright: ignore


def _verbalised(shape: Shape, *, legacy: bool) -> Shape:
    """The shape, with the label words the wrong way round for `legacy`."""
    return replace(shape, choices=tuple(reversed(shape.choices))) if legacy else shape


def _content(shape: Shape, has_examples: bool) -> dict[str, object]:
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
            {"metric": "f1", "aggregation": function(f"{__name__}.weighted_f1"), "higher_is_better": True},
        ],
        "metadata": {"version": 1.0},
    }


def _splits(examples: Sequence[Row], tested: Sequence[Row]) -> dict[str, Sequence[Row]]:
    return {"tested": tested} | ({"examples": examples} if examples else {})
