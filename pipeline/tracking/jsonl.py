"""The tracker that writes `metrics.jsonl` and the tables of a run into its folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.runs.folder import RunDir
from pipeline.tracking.base import Position, Rows, Tracker


@dataclass(kw_only=True)
class Jsonl(Tracker):
    """Stores a run in its folder: one line of `metrics.jsonl` per logged row, and one Parquet file per table.

    The tracker neither opens nor closes the run; the owner of the `RunDir` does. Alerts are not stored
    separately: the metric rows contain them. Figures are not stored: they can be drawn later from the
    metrics.
    """

    run: RunDir
    """The folder of the run, already entered as a context."""

    @property
    def id(self) -> str:
        """The run's fingerprint."""
        return self.run.info.fingerprint

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Append one row to `metrics.jsonl`; the row is on disk when the method returns."""
        self.run.append({**asdict(position), **metrics})

    def table(self, name: str, rows: Rows) -> None:
        """Add rows to the table `<name>`.

        It is written to `<name>.parquet` when the run finishes or fails, and into every checkpoint.
        """
        self.run.record(name, rows)
