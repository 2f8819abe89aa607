"""Where a run's numbers go while it is computed: `metrics.jsonl` always, Weights & Biases beside it."""

import hashlib
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable
from urllib.parse import urlsplit

import pandas as pd

from editors.errors import ConfigError
from pipeline.provenance import is_secret
from pipeline.rundir import Config, RunDir, RunInfo, label

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]
Status = Literal["done", "failed"]
Rows = Sequence[Mapping[str, object]]
Draw = Callable[[], Mapping[str, Path]]
"""Draws a run's figures and gives their files by name; not called where nobody wants them."""


@runtime_checkable
class Tracker(Protocol):
    """A place for the numbers of one run at a time."""

    @property
    def id(self) -> str:
        """The run's name at this place; empty before `start` and where there is none."""
        ...

    def start(self, config: Config, run: RunInfo) -> None:
        """Open the run."""
        ...

    def log(self, edits: int, metrics: Mapping[str, float]) -> None:
        """Add the numbers measured after so many edits."""
        ...

    def table(self, name: str, rows: Rows) -> None:
        """Add rows of details, say one per fact."""
        ...

    def alert(self, title: str, text: str) -> None:
        """Tell people that something happened which they should look at."""
        ...

    def pictures(self, draw: Draw) -> None:
        """Add the figures of the finished run."""
        ...

    def finish(self, status: Status) -> None:
        """Close the run; does nothing where none is open."""
        ...


@contextmanager
def tracking(tracker: Tracker, config: Config, run: RunInfo) -> Iterator[None]:
    """Open the tracker's run and close it at the end, as failed on any exception."""
    try:
        tracker.start(config, run)
        yield
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("done")


@dataclass(kw_only=True)
class Jsonl:
    """The archive: every row of numbers into `metrics.jsonl`, details into `records.parquet`."""

    run: RunDir
    _batch_size: int = field(default=1, init=False)

    @property
    def id(self) -> str:
        """The run's fingerprint."""
        return self.run.info.fingerprint

    def start(self, config: Config, run: RunInfo) -> None:
        """Take the batch size, which gives the step of a number of edits."""
        self._batch_size = int(str(config.get("batch_size", 1)))

    def log(self, edits: int, metrics: Mapping[str, float]) -> None:
        """Write a row; it is on the disk when this returns."""
        step = -(-edits // self._batch_size)  # rounded up: the last batch may be smaller
        self.run.append({"step": step, "edits": edits, **metrics})

    def table(self, name: str, rows: Rows) -> None:
        """Keep the rows for `records.parquet`."""
        self.run.record(name, rows)

    def alert(self, title: str, text: str) -> None:
        """Nothing: the numbers hold it, and the console shows it."""

    def pictures(self, draw: Draw) -> None:
        """Nothing: figures can be drawn from the numbers at any time."""

    def finish(self, status: Status) -> None:
        """Nothing to close: `RunDir` marks the run."""


@dataclass(kw_only=True)
class Wandb:
    """Weights & Biases: group = experiment, job type = editor, every number over `edits`.

    Its files lie in the run folder; an offline run is read there with `wandb leet`, sent with `wandb sync`.
    Neither the environment, the command line, the code nor the console are recorded.
    """

    project: str = "normscope"
    entity: str | None = None
    """A team or user; null is the default one of the account."""
    mode: Mode = "auto"
    """`auto` follows WANDB_MODE, else it is online where one is logged in and offline where not."""
    tags: Sequence[str] = ()
    _run: "wandb.Run | None" = field(default=None, init=False, repr=False)
    _id: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"tracker.mode={self.mode}, but it is one of {', '.join(get_args(Mode))}")

    @property
    def id(self) -> str:
        """Stable over restarts of the same run, different between experiments."""
        return self._id

    def start(self, config: Config, run: RunInfo) -> None:
        """Open a run of its own; raises ConfigError where W&B refuses, for want of a login say."""
        import wandb  # here, because it takes half a second and `tracker=none` need not wait

        self._id = f"{run.fingerprint}-{hashlib.sha256(run.name.encode()).hexdigest()[:6]}"
        try:
            self._run = wandb.init(
                project=self.project,
                entity=self.entity,
                group=run.name,
                job_type=_job_type(config),
                name=f"{_job_type(config)}-{run.fingerprint}",
                id=self._id,
                tags=list(self.tags),
                config=flat(config),
                dir=run.folder,
                mode=_resolved(self.mode),
                reinit="create_new",  # otherwise a run that somebody left open would be handed out again
                # A Settings object of our own per run: wandb.init writes group, job type and tags into it.
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, save_code=False, x_disable_meta=True
                ),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases did not open a run ({error}): log in with `wandb login`, "
                "or set tracker.mode=offline or tracker=none"
            ) from error
        self._run.define_metric("edits")
        self._run.define_metric("*", step_metric="edits")

    def log(self, edits: int, metrics: Mapping[str, float]) -> None:
        """Add a row of history."""
        if self._run is not None:
            self._run.log({"edits": edits, **metrics})

    def table(self, name: str, rows: Rows) -> None:
        """Add a table with the columns of the rows."""
        if self._run is not None and rows:
            import wandb

            self._run.log({name: wandb.Table(dataframe=pd.DataFrame(rows), allow_mixed_types=True)})

    def alert(self, title: str, text: str) -> None:
        """An alert of W&B, which it sends on as its settings say."""
        if self._run is not None:
            self._run.alert(title=title, text=text, level="WARN")

    def pictures(self, draw: Draw) -> None:
        """The figures as images under `figures/<name>`."""
        if self._run is not None and not self._run.disabled:
            import wandb

            self._run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in draw().items()})

    def finish(self, status: Status) -> None:
        """Close the run with exit code 0 or 1."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=0 if status == "done" else 1)


@dataclass(kw_only=True)
class Many:
    """Several trackers as one; none at all with an empty list."""

    trackers: Sequence[Tracker] = ()

    @property
    def id(self) -> str:
        """The ids of all, joined by commas."""
        return ",".join(tracker.id for tracker in self.trackers if tracker.id)

    def start(self, config: Config, run: RunInfo) -> None:
        """Open all, one after the other."""
        for tracker in self.trackers:
            tracker.start(config, run)

    def log(self, edits: int, metrics: Mapping[str, float]) -> None:
        """Give the row to all."""
        for tracker in self.trackers:
            tracker.log(edits, metrics)

    def table(self, name: str, rows: Rows) -> None:
        """Give the table to all."""
        for tracker in self.trackers:
            tracker.table(name, rows)

    def alert(self, title: str, text: str) -> None:
        """Tell all."""
        for tracker in self.trackers:
            tracker.alert(title, text)

    def pictures(self, draw: Draw) -> None:
        """Offer them to all."""
        for tracker in self.trackers:
            tracker.pictures(draw)

    def finish(self, status: Status) -> None:
        """Close all, also where closing one raises."""
        with ExitStack() as stack:
            for tracker in self.trackers:
                stack.callback(tracker.finish, status)


def flat(config: Config, prefix: str = "") -> dict[str, object]:
    """The configuration in one level with keys like `editor/name`, without what looks like a secret."""
    leaves: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}/")
        elif not is_secret(key):
            leaves[f"{prefix}{key}"] = value
    return leaves


def _job_type(config: Config) -> str:
    """The editor's name, or the intervention's where no editor is at work."""
    intervention = label(config, "intervention")
    return label(config, "editor") if intervention in ("", "knowledge_edit") else intervention


def _resolved(mode: Mode) -> Literal["online", "offline", "disabled"]:
    if mode != "auto":
        return mode
    for wanted in ("online", "offline", "disabled"):
        if os.environ.get("WANDB_MODE") == wanted:
            return wanted
    return "online" if _logged_in() else "offline"


def _logged_in() -> bool:
    """Whether W&B has a key in the environment or the netrc file; asks neither the network nor the user."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    # wandb keeps reading the keys of its former address.
    return bool({urlsplit(server).hostname, "api.wandb.ai"} & set(known))
