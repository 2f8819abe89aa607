"""A view of an experiment at Weights & Biases: `python -m pipeline dashboard outputs/<name>`.

The view plots the metrics of the runs by area, over edits or optimiser steps, and groups runs by editor.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from analysis.metrics import dashboard, metrics
from analysis.results.run_folder import RunFolder, run_folders
from analysis.selection import RUNS, selected
from editors.errors import ConfigError, DataError
from editors.text_files import local_path
from pipeline.runs.atomic_files import write
from pipeline.tracking.base import Position
from pipeline.tracking.wandb_config import node
from pipeline.tracking.wandb_tracker import Wandb, axis, has_parts, logged_in

if TYPE_CHECKING:
    from wandb_workspaces import workspaces

OTHERS = "Other metrics"
"""Title of the section of areas that the table of metrics does not have."""
ONCE = ("alarm",)
"""Areas whose metrics have one value per run: drawn as bars, not as lines."""
_BLOCKS = re.compile(r"[./]\d+(-\d+)?$")
"""Suffix of the keys that share a panel: a block, a pair of blocks, or the age of an edit."""


class Plot(NamedTuple):
    """The content of one panel: title, x-axis and metric keys."""

    title: str
    x: str
    keys: tuple[str, ...]


def plots(runs: Iterable[RunFolder]) -> dict[str, list[Plot]]:
    """The panels of every section for which the runs have metrics.

    Keys that differ in their block alone share a panel; a key measured over edits and over optimiser steps
    has one panel for each.

    Raises:
        DataError: if the configuration of a run cannot be read.
    """
    keys_of: dict[str, dict[tuple[str, str], set[str]]] = {}
    for run in runs:
        several = has_parts(run.config())
        for row in run.rows()[0]:
            over = axis(several, Position.of(row))
            for key in row:
                if "/" in key:
                    panel = (_BLOCKS.sub("", key), over)
                    keys_of.setdefault(_section(key), {}).setdefault(panel, set()).add(key)
    order = [title for title in (*dashboard(), OTHERS) if title in keys_of]
    axes = {over for panels in keys_of.values() for _, over in panels}
    return {
        section: [
            Plot(f"{title} over {over}" if len(axes) > 1 else title, over, tuple(sorted(keys)))
            for (title, over), keys in sorted(keys_of[section].items(), key=_place)
        ]
        for section in order
    }


def workspace(
    sections: Mapping[str, Sequence[Plot]],
    configs: Sequence[Mapping[str, object]],
    *,
    project: str,
    entity: str,
) -> "workspaces.Workspace":
    """The view of one or several experiments, restricted to their runs and grouped by editor."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    names = sorted({str(config.get("name")) for config in configs})
    kinds = {str(node(config, "intervention").get("name")) for config in configs}

    def panel(plot: Plot) -> wr.LinePlot | wr.BarPlot:
        if plot.title.partition("/")[0] in ONCE:
            return wr.BarPlot(title=plot.title, metrics=list(plot.keys))
        return wr.LinePlot(title=plot.title, x=plot.x, y=list(plot.keys), title_x=plot.x)

    return ws.Workspace(
        entity=entity,
        project=project,
        name=" and ".join(names),
        sections=[
            ws.Section(name=title, panels=[panel(plot) for plot in content], is_open=number < 2)
            for number, (title, content) in enumerate(sections.items())
        ],
        settings=ws.WorkspaceSettings(max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group").isin(names)],
            groupby=[ws.Config("editor"), *([ws.Config("intervention")] if len(kinds) > 1 else [])],
        ),
    )


def main(arguments: Sequence[str]) -> int:
    """Save the view at W&B, or as a file without a login; returns 1 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        print(_save(options))  # noqa: T201 - the output of the command
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"error: {error.filename or options.to}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _save(options: argparse.Namespace) -> str:
    """Save the view; returns its address, or its path and how to upload it."""
    folders = selected(*options.folders)
    runs = run_folders(folders)
    configs = [run.config() for run in runs]
    sections = plots(runs)
    if not sections:
        raise DataError(f"{options.folders[0]} holds no numbers yet, so there is nothing to lay out")
    trackers = [node(config, "tracker") for config in configs]
    project = options.project or next(
        (tracker["project"] for tracker in trackers if tracker.get("project")), Wandb.project
    )
    entity = options.entity or next((tracker["entity"] for tracker in trackers if tracker.get("entity")), "")
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError("views of W&B need another package: pip install wandb-workspaces") from error
    if options.to is None and logged_in():
        try:
            entity = entity or wandb.Api().default_entity or ""
            return workspace(sections, configs, project=project, entity=entity).save().url
        except (wandb.Error, ValueError) as error:
            raise ConfigError(f"Weights & Biases did not save the view ({error}): try --to FILE") from error
    experiment = folders[0] if runs[0].path != folders[0] else folders[0].parent
    path = options.to or experiment / "dashboard.json"
    write(path, _as_json(workspace(sections, configs, project=project, entity=entity)))
    return (
        f"{path} holds the view, to read and to compare; W&B accepts views only from an account: after "
        "`wandb login` and `python -m pipeline upload`, `python -m pipeline dashboard` saves it there"
    )


def _as_json(view: "workspaces.Workspace") -> str:
    # the package has no public method to serialise a view without an account
    model = view._to_model()
    return json.dumps(json.loads(model.model_dump_json(by_alias=True)), indent=2) + "\n"


def _place(item: tuple[tuple[str, str], object]) -> tuple[int, str, str]:
    """Sort key of a panel in its section: leading metrics first."""
    title, over = item[0]
    leading = [metric.key for metric in metrics() if metric.leads]
    return leading.index(title) if title in leading else len(leading), title, over


def _section(key: str) -> str:
    area = key.partition("/")[0]
    return next((title for title, areas in dashboard().items() if area in areas), OTHERS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline dashboard", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="folder", help=RUNS)
    parser.add_argument(
        "--to", type=local_path, metavar="FILE", help="write the view there instead of saving it"
    )
    parser.add_argument("--project", help="instead of the one of the runs' configurations")
    parser.add_argument("--entity", help="a team or user, instead of the one of the configurations")
    return parser
