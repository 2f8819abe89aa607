"""Weights & Biases as a tracker."""

import hashlib
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

import pandas as pd

from analysis.metrics import summary_of
from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.config.fingerprint import Config, run_label
from pipeline.runs.folder import RunInfo
from pipeline.tracking.base import Draw, Position, Rows, Status, Tracker
from pipeline.tracking.wandb_config import job_type, node, run_config
from pipeline.tracking.wandb_receipt import Receipt, digest

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]
OUTCOME = ("objective", "seconds", "edits", "steps", "tokens", "stopped")
"""Keys of `summary.json` that become the summary of a run; a sweep optimises `objective`."""
_LONGEST_NAME, _LONGEST_TAG = 128, 64
"""Most characters of the name of a project or group, and of a tag (wandb.Settings)."""
_RESERVED = frozenset("/\\#?%:")
"""Characters that the name of a project cannot have (wandb.Settings)."""
DIGEST = "archive/digest"
"""Configuration key: digest of the content of the run's folder that was logged completely."""


@dataclass(kw_only=True)
class Wandb(Tracker):
    """Weights & Biases: group = experiment, job type = editor or intervention, all over edits or steps.

    Its files are in the run folder: `wandb leet` displays and `wandb sync` uploads an offline run.
    Environment, command line, code and console are not recorded.
    """

    project: str = "normscope"
    entity: str | None = None
    """A team or user; null is the default of the account."""
    mode: Mode = "auto"
    """`auto` follows WANDB_MODE; without it, online if logged in, otherwise offline."""
    tags: Sequence[str] = ()
    system_metrics: bool = True
    """Whether W&B samples processor, memory and GPU during the run."""
    _run: "wandb.Run | None" = field(default=None, init=False, repr=False)
    _id: str = field(default="", init=False)
    _folder: Path = field(default=Path(), init=False, repr=False)
    _tables: dict[str, list[Mapping[str, object]]] = field(default_factory=dict, init=False, repr=False)
    _defined: set[str] = field(default_factory=set, init=False, repr=False)
    """Metrics whose summary is defined already."""
    _axis: str = field(default="", init=False)
    """The x-axis of the history; set by the first row."""
    _several: bool = field(default=False, init=False)
    """Whether the run has several parts."""

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        """What W&B would refuse, in part only when the run is uploaded."""
        if self.mode not in get_args(Mode):
            yield f"tracker.mode={self.mode}, but it is one of {', '.join(get_args(Mode))}"
        for key, name in (("project", self.project), ("entity", self.entity)):
            if name is not None and (not 0 < len(name.strip()) <= _LONGEST_NAME or _RESERVED & set(name)):
                yield (
                    f"tracker.{key}={name} has to have 1 to {_LONGEST_NAME} characters, none of "
                    f"{' '.join(sorted(_RESERVED))}"
                )
        for tag in self.tags:
            if not 0 < len(tag.strip()) <= len(tag) <= _LONGEST_TAG:
                yield f"tracker.tags: {tag!r} has {len(tag)} characters, but a tag has 1 to {_LONGEST_TAG}"

    @property
    def id(self) -> str:
        """Id of the W&B run: stable over restarts of a run, different between experiments."""
        return self._id

    def start(self, config: Config, run: RunInfo) -> None:
        """Open a new run; raises ConfigError if W&B refuses, for example without a login."""
        import wandb  # here: the import takes half a second, which `tracker=none` saves

        self._id, self._folder = run_id(run), run.folder
        place = {"project": self.project, "entity": self.entity, "id": self._id}
        try:
            self._run = wandb.init(
                **({} if os.environ.get("WANDB_SWEEP_ID") else place),  # set by the agent of a sweep
                group=run.name,
                job_type=job_type(config),
                name=f"{run_label(config)}-{run.fingerprint}",
                tags=list(self.tags),
                config=run_config(config, RunFolder(run.folder).provenance()),
                dir=run.folder,
                mode=resolved(self.mode),
                reinit="create_new",  # otherwise a run that was left open would be reused
                # A Settings object of our own per run: wandb.init writes group, job type and tags into it.
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    save_code=False,
                    x_disable_meta=True,
                    x_disable_stats=not self.system_metrics,
                ),
            )
        except (wandb.Error, ValueError) as error:  # settings that are refused raise the latter
            raise ConfigError(
                f"Weights & Biases did not open a run ({error}): log in with `wandb login`, "
                "or set tracker.mode=offline or tracker=none"
            ) from error
        self._id = self._run.id
        self._axis, self._several = "", has_parts(config)
        self._tables, self._defined = {}, set()

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Add a row of history, over edits or steps; over all changes if a run has several parts."""
        if self._run is None:
            return
        if not self._axis:
            self._axis = axis(self._several, position)
            self._run.define_metric(self._axis)
            self._run.define_metric("*", step_metric=self._axis)
        self._define(self._run, metrics)
        axes = ("part", "step", "edits", "steps", "tokens") if self._several else (self._axis,)
        tokens = {"tokens": position.tokens} if position.tokens else {}
        self._run.log({**{name: getattr(position, name) for name in axes}, **tokens, **metrics})

    def replay_row(self, row: Mapping[str, Any]) -> None:
        """Add the row to this attempt's history."""
        self.log(Position.of(row), {key: value for key, value in row.items() if "/" in key})

    def table(self, name: str, rows: Rows) -> None:
        """Add rows to a table, which is logged as `tables/<name>` when the run ends."""
        if self._run is not None:
            self._tables.setdefault(name, []).extend(rows)

    def alert(self, title: str, text: str) -> None:
        """Send an alert of W&B through the channels set in the account."""
        if self._run is not None:
            self._run.alert(title=title, text=text, level="WARN")

    def pictures(self, draw: Draw) -> None:
        """Log the figures as images under `figures/<name>`."""
        if self._run is not None and not self._run.disabled:
            import wandb

            self._run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in draw().items()})

    def finish(self, status: Status) -> None:
        """Log the tables and the summary, then close the run with exit code 0 or 1."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            self._log_tables(run)
            content = digest(self._folder)
            summary = RunFolder(self._folder).summary()
            run.summary.update({key: summary[key] for key in OUTCOME if summary.get(key) is not None})
            run.config.update({DIGEST: content}, allow_val_change=True)  # last: it marks a complete run
        finally:
            run.finish(exit_code=0 if status == "done" else 1)
        if not run.disabled:
            self._receipt(run, content, status).write(self._folder)

    def _define(self, run: "wandb.Run", metrics: Mapping[str, float]) -> None:
        """Define the summaries of new metrics, by full name: if two patterns match, W&B uses either."""
        for key in metrics.keys() - self._defined:
            self._defined.add(key)
            if summary := summary_of(key):
                name = key.replace(".", r"\.")  # an unescaped dot would mean a nested key
                run.define_metric(name, step_metric=self._axis, summary=summary)

    def _log_tables(self, run: "wandb.Run") -> None:
        import wandb

        frames = {name: pd.DataFrame(rows) for name, rows in self._tables.items() if rows}
        if frames:
            # with a prefix: the table `edits` has the name of the x-axis, and would be lost
            run.log(
                {
                    f"tables/{name}": wandb.Table(dataframe=frame, allow_mixed_types=True)
                    for name, frame in frames.items()
                }
            )

    def _receipt(self, run: "wandb.Run", content: str, outcome: Status) -> Receipt:
        return Receipt(
            digest=content,
            outcome=outcome,
            id=self._id,
            project=run.project,
            entity=self.entity,
            mode="offline" if run.offline else "online",
            folder=Path(run.settings.sync_dir).resolve().relative_to(self._folder.resolve()).as_posix(),
        )


def run_id(run: RunInfo) -> str:
    """Id of a run at W&B: stable over its restarts, different between experiments."""
    return f"{run.fingerprint}-{hashlib.sha256(run.name.encode()).hexdigest()[:6]}"


def has_parts(config: Config) -> bool:
    """Whether the run consists of several interventions in sequence."""
    return bool(node(config, "intervention").get("parts"))


def axis(several: bool, position: Position) -> str:
    """The x-axis of a run's metrics: its edits or optimiser steps; all changes if it has parts."""
    return "step" if several else position.unit


def resolved(mode: Mode) -> Literal["online", "offline", "disabled"]:
    """The mode that `auto` stands for."""
    if mode != "auto":
        return mode
    for choice in ("online", "offline", "disabled"):
        if os.environ.get("WANDB_MODE") == choice:
            return choice
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether W&B has a key in the environment or the netrc file; asks neither the network nor the user."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    # wandb also accepts keys that are stored for its former address
    return bool({urlsplit(server).hostname, "api.wandb.ai"} & set(hosts))
