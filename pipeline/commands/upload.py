"""Makes the Weights & Biases runs anew from the folders of runs: `python -m pipeline upload outputs/<name>`.

For runs that were computed with tracker=none, without a network, or by a job that died before W&B had written
anything; unfinished and failed ones are told as far as they are. What was told already is left out.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from editors.errors import ConfigError, DataError
from pipeline.config.fingerprint import Config
from pipeline.runs import heartbeat as pulse
from pipeline.runs.archive import Archive, read_archive, read_config, run_folders
from pipeline.runs.folder import RunInfo
from pipeline.tracking.base import Status, tracking
from pipeline.tracking.wandb_config import node
from pipeline.tracking.wandb_receipt import Receipt, digest, outcome
from pipeline.tracking.wandb_tracker import DIGEST, Wandb, resolved, run_id


class Incomplete(Exception):
    """The run is told as failed, since it did not reach its end."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Where runs are uploaded to."""

    project: str | None = None
    """Null is the one that a run's configuration names."""
    entity: str | None = None
    mode: Literal["online", "offline"]
    again: bool = False
    """Whether a run that is there already is written anew."""

    def upload(self, folder: Path) -> list[str]:
        """Upload the run in this folder; sentences about what was done and what left out.

        Raises:
            ConfigError: where Weights & Biases refuses.
            DataError: where the run's configuration cannot be read.
        """
        config = read_config(folder)
        info = RunInfo(name=str(config["name"]), fingerprint=folder.resolve().name, folder=folder)
        alive = pulse.read(folder)
        try:
            with FileLock(folder / ".lock", timeout=0):
                return self._upload(info, self._tracker(config))
        except Timeout:
            if alive is None or not pulse.is_abandoned(alive):
                return ["left out: it is being computed right now"]
        return self._upload(info, self._tracker(config))  # the lock of a host that is gone

    def _upload(self, info: RunInfo, tracker: Wandb) -> list[str]:
        content = digest(info.folder)
        if not self.again and (known := self._known(info, tracker, content)):
            return [f"left out: {known}"]
        earlier = list(info.folder.glob(f"wandb/offline-run-*-{run_id(info)}"))
        for path in earlier if self.mode == "offline" else []:
            shutil.rmtree(path)
        archive = read_archive(info.folder)
        _tell(archive, info, tracker)
        for path in earlier if self.mode == "online" else []:
            shutil.rmtree(path)  # syncing it later would write the run over
        state = archive.state + (f" ({archive.reason})" if archive.reason else "")
        return [*archive.notes, f"{self.mode} as {tracker.project}/{tracker.id}: {state}"]

    def _tracker(self, config: Config) -> Wandb:
        """The tracker that the run had or could have had; it does not measure this machine."""
        own = node(config, "tracker")
        return Wandb(
            project=self.project or own.get("project") or Wandb.project,
            entity=self.entity or own.get("entity"),
            tags=own.get("tags") or (),
            mode=self.mode,
            system_metrics=False,
        )

    def _known(self, info: RunInfo, tracker: Wandb, content: str) -> str:
        """Where this content is already, told as what it is; empty where it is not."""
        receipt, ended = Receipt.read(info.folder), outcome(info.folder)
        place = (content, ended, tracker.project, tracker.entity)
        if receipt and (receipt.digest, receipt.outcome, receipt.project, receipt.entity) == place:
            if receipt.mode == "online":
                return f"it is online already as {receipt.project}/{receipt.id}"
            if self.mode == "offline" and (info.folder / receipt.folder).is_dir():
                return f"{info.folder / receipt.folder} holds it already"
        return _known_online(tracker, run_id(info), content, ended) if self.mode == "online" else ""


def main(arguments: Sequence[str]) -> int:
    """Upload what the command line names; 1 where a run could not be."""
    chosen = _parser().parse_args(arguments)
    failed = 0
    try:
        mode = resolved(chosen.mode)
        if mode == "disabled":
            raise ConfigError("WANDB_MODE=disabled: give --mode online or --mode offline")
        wish = Upload(project=chosen.project, entity=chosen.entity, mode=mode, again=chosen.again)
        for folder in run_folders(chosen.folders):
            try:
                told = wish.upload(folder)
            except (DataError, OSError) as error:
                told, failed = [f"error: {error}"], failed + 1
            for line in told:
                print(f"{folder}: {line}", flush=True)  # noqa: T201 - what people wait for
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if mode == "offline":
        print("send offline runs with: wandb sync <run folder>/wandb/offline-run-*")  # noqa: T201
    return 1 if failed else 0


def _tell(archive: Archive, info: RunInfo, tracker: Wandb) -> None:
    """Everything that the archive holds, as the run itself would have told it, but for its alerts."""
    told = {"state": archive.state, **({"reason": archive.reason} if archive.reason else {})}
    config = {**archive.config, "archive": told}
    try:
        with tracking(tracker, config, info):
            for row in archive.rows:
                tracker.replay_row(row)
            for name, rows in archive.tables.items():
                tracker.table(name, rows)
            if archive.rows:
                tracker.pictures(lambda: _drawn(archive.folder))
            if archive.state != "done":
                raise Incomplete
    except Incomplete:
        pass


def _drawn(folder: Path) -> Mapping[str, Path]:
    from analysis.plots.run_figures import run_figures  # here: it takes a second

    return run_figures(folder, folder / "figures")


def _known_online(tracker: Wandb, name: str, content: str, ended: Status) -> str:
    """Why the run of this id that is online stays as it is; empty where there is none or it is incomplete.

    One that was told as failed although it is done is incomplete: a signal came while its figures were drawn.

    A run is written over, not deleted: W&B never takes the id of a deleted run again.
    """
    there = _online("/".join(filter(None, (tracker.entity, tracker.project, name))))
    if there is None:
        return ""
    if there.config.get(DIGEST) == content and (ended == "failed" or there.state == "finished"):
        return f"it is online already as {tracker.project}/{name}"
    if there.state in ("finished", "running"):
        return f"another state of it is {there.state} online; --again writes it over"
    return ""


def _online(path: str) -> Any | None:
    """A run as W&B's interface gives it, None where there is none.

    Raises:
        ConfigError: where W&B does not answer.
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
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help="experiments or single runs")
    parser.add_argument("--project", help="instead of the one that a run's configuration names")
    parser.add_argument("--entity", help="a team or user, likewise")
    parser.add_argument("--mode", choices=("auto", "online", "offline"), default="auto",
                        help="auto: online where one is logged in, offline where not")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="also what was uploaded already")
    return parser
