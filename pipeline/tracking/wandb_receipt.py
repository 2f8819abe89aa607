"""`uploaded.json`: the content of a run that was uploaded to Weights & Biases."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from analysis.results.run_folder import CONFIG, DONE, METRICS, PROVENANCE, SUMMARY, RunFolder
from pipeline.runs.atomic_files import write_json
from pipeline.tracking.base import Status

CONTENT = (CONFIG, PROVENANCE, METRICS, f"{METRICS}.gz", SUMMARY, DONE)
"""Files that make up a run: from these its figures can be drawn and its W&B run recreated."""
RECEIPT = "uploaded.json"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Digest and address of the uploaded content of a run."""

    digest: str
    outcome: Status
    """Outcome of the run at W&B."""
    id: str
    project: str
    entity: str | None
    mode: str
    folder: str
    """Folder of the W&B files, relative to the run's folder."""

    def write(self, folder: Path) -> None:
        """Write the receipt into the run's folder."""
        write_json(folder / RECEIPT, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Receipt | None":
        """The latest receipt in a run's folder; None if there is none that can be read."""
        try:
            return TypeAdapter(cls).validate_json((folder / RECEIPT).read_bytes())
        except (OSError, ValueError):
            return None


def digest(folder: Path) -> str:
    """Sixteen hex digits that change with the content of a run's files: `CONTENT` and, once done, its tables.

    Tables of unfinished and failed runs are left out: they follow from the rows, and a failed run writes them
    and `FAILED` only after its tracker was closed.
    """
    content = hashlib.sha256()
    patterns = (*CONTENT, "*.parquet") if outcome(folder) == "done" else CONTENT
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        content.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return content.hexdigest()[:16]


def outcome(folder: Path) -> Status:
    """The state of the run at Weights & Biases: failed unless it is complete."""
    return "done" if RunFolder(folder).is_done else "failed"
