"""`uploaded.json`: which content of a run was uploaded to Weights & Biases."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.runs.atomic_files import write_json
from pipeline.runs.layout import is_done
from pipeline.tracking.base import Status

CONTENT = ("config.yaml", "provenance.json", "metrics.jsonl", "metrics.jsonl.gz", "summary.json", "DONE")
"""Files that a run consists of: figures can be drawn from them and copies made elsewhere."""
RECEIPT = "uploaded.json"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Where which content of a run is at Weights & Biases."""

    digest: str
    outcome: Status
    """How the run ended, as W&B has it."""
    id: str
    project: str
    entity: str | None
    mode: str
    folder: str
    """Its files, relative to the run's folder."""

    def write(self, folder: Path) -> None:
        """Write the receipt into the run's folder."""
        write_json(folder / RECEIPT, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Receipt | None":
        """The latest receipt in a run's folder; None if there is none that can be read."""
        try:
            return cls(**json.loads((folder / RECEIPT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def digest(folder: Path) -> str:
    """Sixteen hex digits that change with the content of a run's files: `CONTENT` and, once done, its tables.

    Of a run without an end the tables follow from the rows; if a run fails, they and `FAILED` are written
    only after the tracker was closed.
    """
    content = hashlib.sha256()
    patterns = (*CONTENT, "*.parquet") if outcome(folder) == "done" else CONTENT
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        content.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return content.hexdigest()[:16]


def outcome(folder: Path) -> Status:
    """The state of the run at Weights & Biases, where a run that did not reach its end is a failed one."""
    return "done" if is_done(folder) else "failed"
