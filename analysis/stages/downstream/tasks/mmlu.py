"""MMLU with its official prompts on local files (Hendrycks et al. 2021, arXiv 2009.03300)."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.stages.downstream.tasks.official import OfficialTask, official_tasks, select_tasks
from analysis.stages.downstream.tasks.source import (
    Row,
    TaskFiles,
    check_answers,
    check_counts,
    check_fields,
    existing_folder,
    read_lines,
    write_file,
    write_task,
)
from editors.errors import ConfigError, DataError
from editors.text_files import local_path, open_text

LETTERS = "ABCD"
_HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
_FOLDER = ("mmlu/default",)
Subjects = Mapping[str, Sequence[Row]]
"""Rows by subject."""


@dataclass(frozen=True, kw_only=True)
class LocalMMLU:
    """The group `mmlu` of the subjects in the files; its accuracy is weighted by their sizes.

    A folder holds `dev/<subject>_dev.csv` and `test/<subject>_test.csv`, each row a question, four choices
    and the answer, as 0 to 3 or A to D; a header is allowed. Examples are the first rows of `dev`.
    """

    folder: str | None = None
    """Folder with `dev` and `test`."""
    subset: str | None = None
    """JSON lines with `question`, `subject`, `choices` and `answer`, tested instead of `<folder>/test`."""
    subjects: Sequence[str] | None = None
    """Subjects to test; None for all in the files."""
    shots: int = 5
    """Solved examples before each document."""
    limit: int | None = None
    """Documents of each subject; None for the stage's limit."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """Write a file for each subject that includes the official one, and the official groups over them.

        Raises:
            ConfigError: for an unknown subject, with the nearest name, and for too few examples.
            DataError: for a missing file, a missing field, or an answer that is not the number of a choice.
        """
        check_counts(self.shots, self.limit, option)
        subjects = self._tested_subjects(option)
        known = official_tasks(_FOLDER, option)
        tasks = select_tasks([f"mmlu_{subject}" for subject in subjects], known, _FOLDER, option)
        for task, (subject, tested) in zip(tasks, subjects.items(), strict=True):
            examples = self._examples(subject, option)
            splits = {} if examples else {"fewshot_split": None}
            rows = {"test": tested} | ({"dev": examples} if examples else {})
            write_task(folder, task.name, task.overrides | splits, rows)
        _write_groups(folder, tasks, known)
        return TaskFiles(names=("mmlu",), shots=self.shots, limit=self.limit)

    def _tested_subjects(self, option: str) -> Subjects:
        if self.folder is None and (self.subset is None or self.shots):
            raise ConfigError(f"{option}.folder is not set; give the folder with dev/*_dev.csv")
        available = self._read_subset(option) if self.subset else self._read_tests(option)
        if self.subjects is None:
            return available
        missing = [subject for subject in self.subjects if subject not in available]
        if missing or not self.subjects:
            raise ConfigError(
                f"{option}.subjects: {', '.join(missing) or 'nothing'} is not in the files; "
                f"they have {', '.join(available)}"
            )
        return {subject: available[subject] for subject in self.subjects}

    def _read_tests(self, option: str) -> Subjects:
        folder = existing_folder(f"{self.folder}/test", f"{option}.folder")
        paths = sorted(folder.glob("*_test.csv"))
        if not paths:
            raise DataError(f"{option}.folder: there is no <subject>_test.csv in {folder}")
        return {path.name.removesuffix("_test.csv"): _read_csv(path) for path in paths}

    def _read_subset(self, option: str) -> Subjects:
        path = local_path(str(self.subset))
        rows = read_lines(path, f"{option}.subset")
        check_fields(rows, ("question", "subject", "choices", "answer"), str(path))
        check_answers(rows, "answer", len(LETTERS), str(path))
        subjects: dict[str, list[Row]] = {}
        for row in rows:
            subjects.setdefault(str(row["subject"]), []).append(row)
        return subjects

    def _examples(self, subject: str, option: str) -> Sequence[Row]:
        if not self.shots:
            return ()
        path = local_path(f"{self.folder}/dev/{subject}_dev.csv")
        if not path.is_file():
            raise DataError(
                f"{option}.folder: {path} is no file, and shots={self.shots}; add it or set shots=0"
            )
        rows = _read_csv(path)
        if len(rows) < self.shots:
            raise ConfigError(f"{option}.shots={self.shots}, but {path} has {len(rows)} rows")
        return rows[: self.shots]


def _read_csv(path: Path) -> list[Row]:
    """The rows of a CSV file; raises DataError for a row of another shape."""
    return list(_iterate_csv(path))


def _iterate_csv(path: Path) -> Iterator[Row]:
    with open_text(str(path), option="file", newline="") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            if number == 1 and cells == _HEADER:
                continue
            if len(cells) != len(_HEADER) or cells[-1] not in {*LETTERS, *"0123"}:
                raise DataError(
                    f"{path}: record {number} is not {','.join(_HEADER)} with an answer 0 to 3 or A to D"
                )
            answer = LETTERS.index(cells[-1]) if cells[-1] in LETTERS else int(cells[-1])
            yield {"question": cells[0], "choices": cells[1:-1], "answer": answer}


def _write_groups(folder: Path, tasks: Sequence[OfficialTask], known: Mapping[str, OfficialTask]) -> None:
    """Write the official groups of these tasks; groups without a task are left out."""
    members: dict[str, list[str]] = {}
    for task in tasks:
        members.setdefault(task.content["tag"].removesuffix("_tasks"), []).append(task.name)
    for name, names in {**members, "mmlu": list(members)}.items():
        write_file(folder, f"group_{name}", {"include": str(known[name].path), "group": name, "task": names})
