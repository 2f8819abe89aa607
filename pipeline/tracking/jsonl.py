"""The tracker that writes `metrics.jsonl` and the tables of a run into its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.runs.folder import RunDir
from pipeline.tracking.base import Position, Rows, Tracker


@dataclass(kw_only=True)
class Jsonl(Tracker):
    """The run's archive: every row of numbers in `metrics.jsonl`, details in one Parquet file per table.

    `RunDir` opens and closes the run. Alerts are among the numbers, and figures are drawn from them later.
    """

    run: RunDir

    @property
    def id(self) -> str:
        """The run's fingerprint."""
        return self.run.info.fingerprint

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Write a row; it is on the disk when this returns."""
        self.run.append({**asdict(position), **metrics})

    def table(self, name: str, rows: Rows) -> None:
        """Keep the rows for `<name>.parquet`."""
        self.run.record(name, rows)
