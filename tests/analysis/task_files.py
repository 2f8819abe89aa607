"""Small files of rows for downstream tasks, and how to run a source of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.stages.base import Measurement, Observation
from analysis.stages.downstream.harness import Harness
from analysis.stages.downstream.stage import Downstream
from analysis.stages.downstream.tasks.source import TaskSource
from editors.models.model import Model
from tests.tiny import tiny_model

SINGLE = [{"sentence": f"You live {word}.", "label": i % 2} for i, word in enumerate("abcdefgh")]
PAIRS = [
    {"sentence1": f"Rob {word}.", "sentence2": f"Ada {word}.", "label": i // 2 % 2}
    for i, word in enumerate("abcdefgh")
]
CHOICES = ["town", "river", "poet", "captain"]


def write_lines(folder: Path, **files: Sequence[Mapping[str, object]]) -> Path:
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_glue(folder: Path) -> Path:
    """The four files, eight rows each."""
    return write_lines(folder, sst2=SINGLE, cola=SINGLE, mrpc=PAIRS, rte=PAIRS)


def write_mmlu(folder: Path, header: bool = True, **sizes: int) -> Path:
    """Subjects with so many test rows, and five examples."""
    for subject, size in sizes.items():
        for split, rows in (("dev", 5), ("test", size)):
            (folder / split).mkdir(exist_ok=True)
            lines = ["question,choice0,choice1,choice2,choice3,answer"] if header else []
            answers = (str(i % 4) if header else "ABCD"[i % 4] for i in range(rows))
            lines += [f"Who is {i}?,{','.join(CHOICES)},{a}" for i, a in enumerate(answers)]
            (folder / split / f"{subject}_{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def loaded(source: TaskSource, folder: Path, limit: int | None = None) -> Harness:
    """The harness with the tasks of a source, written into a folder of their own."""
    (folder / "written").mkdir()
    return Harness(
        source.write(folder / "written", "tasks.x"), folder / "written", tiny_model(double=False),
        limit=limit, seed=1234, batch_tokens=512, option="tasks.x",
    )  # fmt: skip


def prompts(harness: Harness, task: str) -> list[str]:
    """What precedes the choices, of every document."""
    return [instance.args[0] for instance in harness.tasks[task].instances if instance.idx == 0]


def measured(source: TaskSource, model: Model, limit: int | None = None) -> Measurement:
    stage = Downstream(tasks={"x": source}, limit=limit)
    stage.prepare(model)
    return stage.measure(model, Observation(count=0, total=1))
