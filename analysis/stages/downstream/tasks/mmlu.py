"""MMLU with its official prompts on local files (Hendrycks et al. 2021, arXiv 2009.03300)."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.stages.downstream.tasks.official import OfficialTask, chosen, official
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

LETTERS = "ABCD"
_HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
_FOLDER = ("mmlu/default",)
Subjects = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, kw_only=True)
class LocalMMLU:
    """The group `mmlu` of the subjects that the files have; its accuracy is weighted by their sizes.

    A folder holds `dev/<subject>_dev.csv` and `test/<subject>_test.csv`, each row a question, four choices
    and the answer, as 0 to 3 or A to D; a header may stand above. Examples are the first rows of `dev`.
    """

    folder: str | None = None
    subset: str | None = None
    """JSON lines with `question`, `subject`, `choices` and `answer`, tested instead of `<folder>/test`."""
    subjects: Sequence[str] | None = None
    """All that the files have where it is None."""
    shots: int = 5
    limit: int | None = None
    """Documents of each subject."""

    def write(self, folder: Path, option: str) -> TaskFiles:
        """A file for each subject that includes the official one, and the official groups over them.

        Raises:
            ConfigError: for an unknown subject, with the nearest name, and for too few examples.
            DataError: for a missing file, a missing field, or an answer that is no choice's number.
        """
        check_counts(self.shots, self.limit, option)
        tested = self._tested(option)
        known = official(_FOLDER, option)
        tasks = chosen([f"mmlu_{subject}" for subject in tested], known, _FOLDER, option)
        for task, (subject, found) in zip(tasks, tested.items(), strict=True):
            examples = self._examples(subject, option)
            splits = {} if examples else {"fewshot_split": None}
            rows = {"test": found} | ({"dev": examples} if examples else {})
            write_task(folder, task.name, task.changes | splits, rows)
        _write_groups(folder, tasks, known)
        return TaskFiles(names=("mmlu",), shots=self.shots, limit=self.limit)

    def _tested(self, option: str) -> Subjects:
        if self.folder is None and (self.subset is None or self.shots):
            raise ConfigError(f"{option}.folder is not set; give the folder with dev/*_dev.csv")
        found = self._lines(option) if self.subset else self._tables(option)
        if self.subjects is None:
            return found
        missing = [subject for subject in self.subjects if subject not in found]
        if missing or not self.subjects:
            raise ConfigError(
                f"{option}.subjects: {', '.join(missing) or 'nothing'} is not in the files; "
                f"they have {', '.join(found)}"
            )
        return {subject: found[subject] for subject in self.subjects}

    def _tables(self, option: str) -> Subjects:
        folder = existing_folder(f"{self.folder}/test", f"{option}.folder")
        paths = sorted(folder.glob("*_test.csv"))
        if not paths:
            raise DataError(f"{option}.folder: there is no <subject>_test.csv in {folder}")
        return {path.name.removesuffix("_test.csv"): _table(path) for path in paths}

    def _lines(self, option: str) -> Subjects:
        path = Path(str(self.subset)).expanduser()
        found = read_lines(path, f"{option}.subset")
        check_fields(found, ("question", "subject", "choices", "answer"), str(path))
        check_answers(found, "answer", len(LETTERS), str(path))
        subjects: dict[str, list[Row]] = {}
        for row in found:
            subjects.setdefault(str(row["subject"]), []).append(row)
        return subjects

    def _examples(self, subject: str, option: str) -> Sequence[Row]:
        if not self.shots:
            return ()
        path = Path(f"{self.folder}/dev/{subject}_dev.csv").expanduser()
        if not path.is_file():
            raise DataError(f"{option}.folder: {path} is no file, and shots={self.shots}; add it or shots=0")
        found = _table(path)
        if len(found) < self.shots:
            raise ConfigError(f"{option}.shots={self.shots}, but {path} has {len(found)} rows")
        return found[: self.shots]


def _table(path: Path) -> list[Row]:
    """The rows of a CSV file; raises DataError for one of another shape."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
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
    """The official groups of these tasks; one without a task is left out."""
    members: dict[str, list[str]] = {}
    for task in tasks:
        members.setdefault(task.content["tag"].removesuffix("_tasks"), []).append(task.name)
    for name, names in {**members, "mmlu": list(members)}.items():
        write_file(folder, f"group_{name}", {"include": str(known[name].path), "group": name, "task": names})
