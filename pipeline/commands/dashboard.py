"""Lays out an experiment's runs at Weights & Biases: `python -m pipeline dashboard outputs/<name>`.

The view shows what the runs measured, area by area, over what they count, and groups them by editor.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from analysis.metrics import dashboard, metrics
from analysis.results.run_folder import RunFolder, run_folders
from editors.errors import ConfigError, DataError
from pipeline.runs.atomic_files import write
from pipeline.tracking.base import Position
from pipeline.tracking.wandb_config import node
from pipeline.tracking.wandb_tracker import Wandb, axis, has_parts, logged_in

if TYPE_CHECKING:
    from wandb_workspaces import workspaces

OTHERS = "Other metrics"
"""Title of the section of areas that the table of metrics does not have."""
ONCE = ("alarm",)
"""Areas whose numbers a run has once: bars, no lines."""
_BLOCKS = re.compile(r"[./]\d+(-\d+)?$")
"""What tells lines of one panel apart: a block, a pair of them, the age of an edit."""


class Plot(NamedTuple):
    """What one panel shows."""

    title: str
    x: str
    keys: tuple[str, ...]


def plots(runs: Iterable[RunFolder]) -> dict[str, list[Plot]]:
    """The panels of every section for which the runs measured something.

    Keys that differ by their block alone share a panel; what runs measured over edits and over optimiser
    steps has a panel for each.

    Raises:
        DataError: where a run's configuration cannot be read.
    """
    found: dict[str, dict[tuple[str, str], set[str]]] = {}
    for run in runs:
        several = has_parts(run.config())
        for row in run.rows()[0]:
            over = axis(several, Position.of(row))
            for key in row:
                if "/" in key:
                    panel = (_BLOCKS.sub("", key), over)
                    found.setdefault(_section(key), {}).setdefault(panel, set()).add(key)
    order = [title for title in (*dashboard(), OTHERS) if title in found]
    axes = {over for panels in found.values() for _, over in panels}
    return {
        section: [
            Plot(f"{title} over {over}" if len(axes) > 1 else title, over, tuple(sorted(keys)))
            for (title, over), keys in sorted(found[section].items(), key=_place)
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
    """The view of one or several experiments: their runs alone, grouped by editor."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    names = sorted({str(config["name"]) for config in configs})
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
            ws.Section(name=title, panels=[panel(plot) for plot in shown], is_open=number < 2)
            for number, (title, shown) in enumerate(sections.items())
        ],
        settings=ws.WorkspaceSettings(max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group").isin(names)],
            groupby=[ws.Config("editor"), *([ws.Config("intervention")] if len(kinds) > 1 else [])],
        ),
    )


def main(arguments: Sequence[str]) -> int:
    """Save the view at W&B, or as a file where nobody is logged in; 1 for a user's mistake."""
    chosen = _parser().parse_args(arguments)
    try:
        print(_saved(chosen))  # noqa: T201 - what a person asked for
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _saved(chosen: argparse.Namespace) -> str:
    """Where the view is now."""
    runs = run_folders(chosen.folders)
    configs = [run.config() for run in runs]
    sections = plots(runs)
    if not sections:
        raise DataError(f"{chosen.folders[0]} holds no numbers yet, so there is nothing to lay out")
    told = [node(config, "tracker") for config in configs]
    project = chosen.project or next((own["project"] for own in told if own.get("project")), Wandb.project)
    entity = chosen.entity or next((own["entity"] for own in told if own.get("entity")), "")
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError("W&B's views need a package more: pip install 'normscope[dashboards]'") from error
    if chosen.to is None and logged_in():
        try:
            entity = entity or wandb.Api().default_entity or ""
            return workspace(sections, configs, project=project, entity=entity).save().url
        except (wandb.Error, ValueError) as error:
            raise ConfigError(f"Weights & Biases did not save the view ({error}): try --to FILE") from error
    path = chosen.to or chosen.folders[0] / "dashboard.json"
    write(path, _as_json(workspace(sections, configs, project=project, entity=entity)))
    return (
        f"{path}: what the view holds, for reading and comparing; W&B itself takes it only from an account: "
        "after `wandb login` and `python -m pipeline upload` `python -m pipeline dashboard` saves it there"
    )


def _as_json(view: "workspaces.Workspace") -> str:
    # the package has no public way to write a view down without an account
    model = view._to_model()
    return json.dumps(json.loads(model.model_dump_json(by_alias=True)), indent=2) + "\n"


def _place(item: tuple[tuple[str, str], object]) -> tuple[int, str, str]:
    """Where a panel stands in its section."""
    title, over = item[0]
    leading = [metric.key for metric in metrics() if metric.leads]
    return leading.index(title) if title in leading else len(leading), title, over


def _section(key: str) -> str:
    area = key.partition("/")[0]
    return next((title for title, areas in dashboard().items() if area in areas), OTHERS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline dashboard", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help="experiments")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the view there instead of saving it")
    parser.add_argument("--project", help="instead of the one that the runs' configurations name")
    parser.add_argument("--entity", help="a team or user, likewise")
    return parser
