"""The tracker that writes `metrics.jsonl` and the tables of a run into its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.fingerprint import Config
from pipeline.runs.folder import RunDir, RunInfo
from pipeline.tracking.base import Draw, Position, Rows, Status


@dataclass(kw_only=True)
class Jsonl:
    """The archive: every row of numbers into `metrics.jsonl`, details into `records.parquet`."""

    run: RunDir

    @property
    def id(self) -> str:
        """The run's fingerprint."""
        return self.run.info.fingerprint

    def start(self, config: Config, run: RunInfo) -> None:
        """Nothing to open."""

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Write a row; it is on the disk when this returns."""
        self.run.append({**asdict(position), **metrics})

    def again(self, row: Mapping[str, Any]) -> None:
        """Nothing: the file holds it."""

    def table(self, name: str, rows: Rows) -> None:
        """Keep the rows for `records.parquet`."""
        self.run.record(name, rows)

    def alert(self, title: str, text: str) -> None:
        """Nothing: the numbers hold it, and the console shows it."""

    def pictures(self, draw: Draw) -> None:
        """Nothing: figures can be drawn from the numbers at any time."""

    def finish(self, status: Status) -> None:
        """Nothing to close: `RunDir` marks the run."""
