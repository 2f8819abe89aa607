"""Uploads runs to Weights & Biases from their folders: `python -m pipeline upload outputs/<name>`.

For runs that were computed with tracker=none, without a network, or by a job that died before W&B had written
anything. Of unfinished and failed runs the rows so far are uploaded; content already uploaded is left out.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from analysis.results.run_files import one_line
from analysis.results.run_folder import RunFolder, run_folders
from analysis.selection import RUNS, selected
from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import Config
from pipeline.runs import heartbeat
from pipeline.runs.folder import RunInfo
from pipeline.tracking.base import Status, tracking
from pipeline.tracking.wandb_config import node
from pipeline.tracking.wandb_receipt import Receipt, digest, outcome
from pipeline.tracking.wandb_tracker import DIGEST, Wandb, resolved, run_id


class Incomplete(Exception):
    """Marks the W&B run as failed, because the run did not reach its end."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Where runs are uploaded to."""

    project: str | None = None
    """Null is the project of the run's configuration."""
    entity: str | None = None
    mode: Literal["online", "offline"]
    again: bool = False
    """Whether a run that was uploaded already is overwritten."""

    def upload(self, run: RunFolder) -> list[str]:
        """Upload a run; returns sentences on the uploaded and the omitted content.

        Raises:
            ConfigError: if Weights & Biases refuses.
            DataError: if the configuration or the rows of the run cannot be read.
        """
        folder, config = run.path, run.config()
        info = RunInfo(
            name=config.get("name") or run.experiment,
            fingerprint=RunFolder(folder.resolve()).fingerprint,
            folder=folder,
        )
        beat = heartbeat.read_progress(folder)
        try:
            with FileLock(folder / ".lock", timeout=0):
                return self._upload(run, info, self._tracker(config))
        except Timeout:
            if beat is None or not heartbeat.is_abandoned(beat):
                return ["left out: it is being computed right now"]
        return self._upload(run, info, self._tracker(config))  # the host of the lock is gone

    def _upload(self, run: RunFolder, info: RunInfo, tracker: Wandb) -> list[str]:
        content = digest(info.folder)
        if not self.again and (place := self._place(info, tracker, content)):
            return [f"left out: {place}"]
        earlier = list(info.folder.glob(f"wandb/offline-run-*-{run_id(info)}"))
        for path in earlier if self.mode == "offline" else []:
            shutil.rmtree(path)
        notes = _replay(run, info, tracker)
        for path in earlier if self.mode == "online" else []:
            shutil.rmtree(path)  # syncing it later would overwrite the run
        state = run.state + (f" ({run.failure})" if run.failure else "")
        return [*notes, f"{self.mode} as {tracker.project}/{tracker.id}: {state}"]

    def _tracker(self, config: Config) -> Wandb:
        """The tracker that the run had or could have had; it does not measure this machine."""
        settings = node(config, "tracker")
        return Wandb(
            project=self.project or settings.get("project") or Wandb.project,
            entity=self.entity or settings.get("entity"),
            tags=settings.get("tags") or (),
            mode=self.mode,
            system_metrics=False,
        )

    def _place(self, info: RunInfo, tracker: Wandb, content: str) -> str:
        """A sentence on where this content with this outcome was uploaded; empty if it was not."""
        receipt, ended = Receipt.read(info.folder), outcome(info.folder)
        place = (content, ended, tracker.project, tracker.entity)
        if receipt and (receipt.digest, receipt.outcome, receipt.project, receipt.entity) == place:
            if receipt.mode == "online":
                return f"it is online already as {receipt.project}/{receipt.id}"
            if self.mode == "offline" and (info.folder / receipt.folder).is_dir():
                return f"{info.folder / receipt.folder} holds it already"
        return _place_online(tracker, run_id(info), content, ended) if self.mode == "online" else ""


def main(arguments: Sequence[str]) -> int:
    """Upload the runs of the command line; 1 if one could not be uploaded."""
    options = _parser().parse_args(arguments)
    failed = 0
    try:
        mode = resolved(options.mode)
        if mode == "disabled":
            raise ConfigError("WANDB_MODE=disabled: give --mode online or --mode offline")
        upload = Upload(project=options.project, entity=options.entity, mode=mode, again=options.again)
        for run in run_folders(selected(*options.folders)):
            try:
                lines = upload.upload(run)
            except (DataError, OSError) as error:
                lines, failed = [f"error: {error}"], failed + 1
            for line in lines:
                print(one_line(f"{run.path}: {line}"), flush=True)  # noqa: T201 - the command's output
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"error: {error.filename} cannot be read: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    if mode == "offline":
        print("send offline runs with: wandb sync <run folder>/wandb/offline-run-*")  # noqa: T201
    return 1 if failed else 0


def _replay(run: RunFolder, info: RunInfo, tracker: Wandb) -> Sequence[str]:
    """Pass everything in the folder except alerts to the tracker, as the run did; returns the notes."""
    (rows, notes), (tables, more), state = run.rows(), run.tables(), run.state
    archive = {"state": state, **({"reason": run.failure} if run.failure else {})}
    try:
        with tracking(tracker, {**run.config(), "archive": archive}, info):
            for row in rows:
                tracker.replay_row(row)
            for name, table in tables.items():
                tracker.table(name, table)
            if rows:
                tracker.pictures(lambda: _figures(run.path))
            if state != "done":
                raise Incomplete
    except Incomplete:
        pass
    return (*notes, *more)


def _figures(folder: Path) -> Mapping[str, Path]:
    from analysis.plots.run_figures import run_figures  # here, because it takes a second

    return run_figures(folder, folder / "figures")


def _place_online(tracker: Wandb, name: str, content: str, ended: Status) -> str:
    """Why the online run of this id stays as it is; empty if there is none or it is incomplete.

    A run that is done but marked as failed online is incomplete: a signal came while its figures were drawn.

    A run is overwritten, not deleted: W&B never accepts the id of a deleted run again.
    """
    online = _online("/".join(filter(None, (tracker.entity, tracker.project, name))))
    if online is None:
        return ""
    if online.config.get(DIGEST) == content and (ended == "failed" or online.state == "finished"):
        return f"it is online already as {tracker.project}/{name}"
    if online.state in ("finished", "running"):
        return f"another state of it is {online.state} online; --again overwrites it"
    return ""


def _online(path: str) -> Any | None:
    """The run of this path from W&B's interface, None if there is none.

    Raises:
        ConfigError: if W&B does not answer.
    """
    import wandb

    try:
        return wandb.Api().run(path)
    except (wandb.Error, ValueError) as error:
        if "Could not find" in str(error):
            return None
        raise ConfigError(f"Weights & Biases did not answer ({error}): try --mode offline") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline upload", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="folder", help=RUNS)
    parser.add_argument("--project", help="instead of the project of each run's configuration")
    parser.add_argument("--entity", help="a team or user, instead of the one of each run's configuration")
    parser.add_argument("--mode", choices=("auto", "online", "offline"), default="auto",
                        help="auto: online if logged in, otherwise offline")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="also runs that were uploaded already")
    return parser
