"""Weights & Biases as a tracker."""

import hashlib
import netrc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

import pandas as pd

from editors.errors import ConfigError
from pipeline.identity import Config, label
from pipeline.provenance import is_secret
from pipeline.rundir import RunInfo
from pipeline.trackers import Draw, Position, Rows, Status

if TYPE_CHECKING:
    import wandb

Mode = Literal["auto", "online", "offline", "disabled"]


@dataclass(kw_only=True)
class Wandb:
    """Weights & Biases: group = experiment, job type = editor or intervention, all over edits or steps.

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
    _axis: str = field(default="", init=False)
    """What the history is drawn over; known from the first row on."""
    _several: bool = field(default=False, init=False)

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
        self._axis, self._several = "", bool(_node(config, "intervention").get("parts"))

    def log(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Add a row of history, over edits or steps; over all changes where a run has several parts."""
        if self._run is None:
            return
        if not self._axis:
            self._axis = "step" if self._several else position.unit
            self._run.define_metric(self._axis)
            self._run.define_metric("*", step_metric=self._axis)
        shown = ("part", "step", "edits", "steps", "tokens") if self._several else (self._axis,)
        tokens = {"tokens": position.tokens} if position.tokens else {}
        self._run.log({**{name: getattr(position, name) for name in shown}, **tokens, **metrics})

    def again(self, row: Mapping[str, Any]) -> None:
        """Add it to this attempt's history."""
        self.log(Position.of(row), {key: value for key, value in row.items() if "/" in key})

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


def flat(config: Config, prefix: str = "") -> dict[str, object]:
    """The configuration in one level with keys like `editor/name`, without what looks like a secret."""
    leaves: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}/")
        elif not is_secret(key):
            leaves[f"{prefix}{key}"] = value
    return leaves


def _node(config: Config, group: str) -> Mapping[str, Any]:
    node = config.get(group)
    return node if isinstance(node, Mapping) else {}


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
