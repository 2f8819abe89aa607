"""A search of `suggest` as its command line describes it, and the options of its runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editors.base import Editor
from editors.errors import ConfigError
from editors.text_files import local_path
from pipeline.config.allowed_classes import import_target
from pipeline.config.models.published import as_text
from pipeline.config.overrides.quoting import with_facts
from pipeline.data.atlas.facts import known_models
from pipeline.paths import CONF, ROOT
from pipeline.sweeps.box import Box

USAGE = "python -m pipeline suggest model=X editor=Y [edits=50] [trials=12] [out=FOLDER] [option=value ...]"
_MEASURED = {
    "stage": "[norms,efficacy]",
    "stage.norms.cadence.every": "0",
    "stage.norms.whole.every": "0",
    "stage.efficacy.cadence.every": "0",
    "stage.efficacy.scopes": "[seen]",
    "stage.efficacy.generated": "0",
    "tracker": "none",
}
"""Measurements of a trial: none while it edits."""
_LIST = re.compile(r"[^\[\](){}'\"]*,[^\[\](){}'\"]*")
"""Values with commas that are neither a list nor in quotes."""
_SEVERAL = re.compile(r"(tag|interval|range|choice|int|float)\(")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A search as the command line describes it."""

    options: Mapping[str, str]
    """Options of the runs by key, with the model and the editor."""
    ranges: Mapping[str, str]
    """Keys with several values, in the grammar of searches, in place of the published range."""
    trials: int
    out: Path
    """Folder of configuration to which the file goes."""


def as_overrides(options: Mapping[str, str]) -> list[str]:
    """Options by key as on the command line."""
    return [f"{key}={value}" for key, value in options.items()]


def requested(arguments: Sequence[str]) -> Request:
    """The request of a command line; raises ConfigError for options that cannot be searched with."""
    arguments = with_facts(arguments)
    if unknown := [argument for argument in arguments if "=" not in argument or argument.startswith("-")]:
        raise ConfigError(f"{unknown[0]} is no option of a search; usage: {USAGE}")
    options = dict(argument.split("=", 1) for argument in arguments)
    problems = [f"{key}=… is missing; usage: {USAGE}" for key in ("model", "editor") if key not in options]
    problems += [
        f"{key}={options[key]}: a search is for one {key} at a time"
        for key in ("model", "editor")
        if "," in options.get(key, "")
    ]
    problems += [
        f"{key}={value}: write several values as '{key}=choice({value})'"
        for key, value in options.items()
        if key not in ("model", "editor") and _LIST.fullmatch(value)
    ]
    if "layers" in options:
        problems.append(
            f"layers={options['layers']}: a search takes blocks by number, such as layers.edit=[0,1]"
        )
    trials, out = options.pop("trials", "12"), options.pop("out", "")
    if not trials.isdecimal() or int(trials) < 1:
        problems.append(f"trials={trials}, but a search has at least 1 trial")
    if not out and CONF != ROOT / "conf":
        problems.append("out=… is missing: an installed package cannot be written to, name a folder")
    if problems:
        raise ConfigError("\n".join(problems))
    several = {key: value for key, value in options.items() if _SEVERAL.match(value)}
    return Request(
        options={key: value for key, value in options.items() if key not in several},
        ranges=several,
        trials=int(trials),
        out=local_path(out) if out else CONF,
    )


def trial(request: Request, nodes: Mapping[str, Any], space: Box) -> dict[str, str]:
    """The options of one run, without those that are searched."""
    edits = request.options.get("edits", "50")
    kind = import_target(nodes["editor"]["_target_"])
    largest = getattr(kind, "largest_batch", Editor.largest_batch)
    fixed = {key: as_text(value) for key, value in space.fixed.items()}
    return {
        **_MEASURED,
        **own_facts(request, nodes),
        "edits": edits,
        "batch_size": edits if largest is None else str(min(int(edits), largest)),
        **fixed,
        **request.options,
    }


def first_point(request: Request, space: Box) -> dict[str, Any]:
    """The guess for every key that is searched, unless it lies outside of the range on the command line."""
    # imported here, because Optuna is an extra
    from pipeline.sweeps.search_space import holds, parsed

    values = {**space.fixed, **space.guess}
    point = {key: value for key, value in space.guess.items() if key not in request.options}
    for key, text in request.ranges.items():
        value = as_text(values[key]) if isinstance(values.get(key), list) else values.get(key)
        point.pop(key, None)
        if holds(parsed(f"{key}={text}"), value):
            point[key] = value
    return point


def searched(request: Request, space: Box, point: Mapping[str, Any]) -> dict[str, str]:
    """The options of the search itself: what is searched, from which point, and how long."""
    several = {key: value for key, value in space.space.items() if key not in request.options}
    first = ",".join(f"{key}:{_quoted(value)}" for key, value in point.items())
    return {
        **several,
        **request.ranges,
        "hydra/sweeper": "optuna",
        "hydra.mode": "MULTIRUN",
        "hydra.sweeper.n_trials": str(request.trials),
        "hydra.sweeper.sampler.n_startup_trials": str(max(2, request.trials // 3)),
        "hydra.sweeper.first": f"[{{{first}}}]",
        "hydra.sweeper.first_must_run": "true",
    }


def one_pass(nodes: Mapping[str, Any], candidates: Sequence[Sequence[int]]) -> dict[str, str]:
    """The option by which one pass over the text collects the moments of all blocks that are tried."""
    moments = nodes.get("moments") or {}
    if "_target_" not in moments or not hasattr(import_target(moments["_target_"]), "layers"):
        return {}
    return {"+moments.layers": as_text(sorted({block for blocks in candidates for block in blocks}))}


def own_facts(request: Request, nodes: Mapping[str, Any]) -> dict[str, str]:
    """Facts that no experiment uses, if the options name none; for models of the built-in world its own."""
    if "data" in request.options:
        return {}
    corpus = nodes["model"].get("corpus") or {}
    if corpus.get("_target_", "").startswith("pipeline.data.world."):
        return {"data": "world"}
    model = request.options["model"]
    known = {"data.known_by": model} if model in known_models() else {}
    return {"data": "atlas", "data.part": "tuning", **known}


def _quoted(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
