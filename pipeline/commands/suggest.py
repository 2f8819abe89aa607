"""Searches for values of an editor on a model: `python -m pipeline suggest model=X editor=Y [trials=12]`.

Edits facts that no experiment uses with different blocks, steps, rates and weights. The best values have the
largest harmonic mean of ES, PS and NS; among nearly equal ones, norms grow least. The first trial has the
values of the pair, or else those of the published model of nearest depth; Optuna proposes the others. The
same command continues a search that was interrupted, and trials=24 continues from 12.

    edits=50       facts of each trial, edited together if the editor can
    trials=12      trials in all
    out=FOLDER     write FOLDER/hparams/<model>/<editor>.yaml, which --config-dir FOLDER reads; by default the
                   file goes to conf/ of the checkout

Other options are those of a run, such as data=file data.path=FACTS.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.results.run_folder import RunFolder
from analysis.stages.efficacy.records import unmeasured
from analysis.stages.efficacy.stage import Efficacy
from editors.base import Editor
from editors.errors import ConfigError, DataError
from editors.text_files import local_path
from pipeline.build import Parts, build
from pipeline.commands.suggestion import best, trials_of
from pipeline.config.allowed_classes import import_target
from pipeline.config.models.published import LAYERS, Values, are_blocks, as_text, flat, nearest, published
from pipeline.config.schema import composed, composed_run
from pipeline.data.atlas.facts import known_models
from pipeline.paths import CONF, ROOT
from pipeline.runs.layout import OUTPUTS, folder_of
from pipeline.sweeps.box import EDITED, Box, box, ranges

log = logging.getLogger(__name__)

USAGE = "python -m pipeline suggest model=X editor=Y [edits=50] [trials=12] [out=FOLDER] [option=value ...]"
_SCORES = {"rewrite": "ES", "paraphrase": "PS", "neighbour": "NS"}
_FIELDS = {"target_true": "true objects", "paraphrases": "paraphrases", "neighbours": "neighbours"}
"""Fields of facts that the scores need, in words."""
_PEAK = "trace/peak/mlp"
_TRACED = 20
"""Facts whose causal trace says where the model looks facts up."""
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
_SEVERAL = re.compile(r"(tag|interval|range|choice|int|float)\(")
_TRACE = {
    "intervention": "none",
    "stage": "[tracing]",
    "stage.tracing.facts": str(_TRACED),
    "stage.tracing.samples": "3",
    "+stage.tracing.kinds": "[mlp]",
    "+stage.tracing.classes": "[subject_last]",
    "objective.score.metric": _PEAK,
    "tracker": "none",
}


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


def main(arguments: Sequence[str], compute: Callable[[Sequence[str]], None]) -> str | int:
    """Search, write the file, and print what to expect; returns an exit status, or a message.

    `compute` runs the pipeline with the options of a command line.

    Raises:
        NormscopeError: for mistakes in the options, and if no trial gives a number.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)  # noqa: T201
        return 0
    request = requested(arguments)
    nodes = described(request)
    model, editor = nodes["model"], nodes["editor"]
    name = request.options.get("name", f"suggest-{model['name']}-{editor['name']}")
    file = request.out / "hparams" / model["name"] / f"{editor['name']}.yaml"
    if file.exists():
        raise ConfigError(f"{file} exists already: move it away, or give out=FOLDER for a new one")
    origin, guess = guessed(nodes)
    others = [*published(editor["name"]).values()]
    space = box(others, guess, [guess[LAYERS]])
    first = {key: as_text(value) for key, value in space.guess.items()}
    check_measurable(build(composed_run(as_overrides(first | trial(request, nodes, space)))))
    peak = traced(request, nodes, compute) if len(guess[LAYERS]) < model["depth"] else None
    candidates = ranges(guess[LAYERS], peak, model["depth"])
    space = box(others, guess, candidates)
    options = trial(request, nodes, space) | searched(request, space) | {"name": name}
    if EDITED not in {*request.options, *request.ranges}:
        options |= _one_pass(nodes, candidates)
    log.info("search: %d trials of %s facts; the first has %s", request.trials, options["edits"], origin)
    compute(as_overrides(options))
    suggestion = best(trials_of(name), request.options, options, space.fixed, origin, peak)
    print(*suggestion.lines(), sep="\n")  # noqa: T201
    if not suggestion.is_good:
        return f"fewer than nine of ten facts are written, so there is no file: {suggestion.advice}"
    suggestion.write(file)
    print(f"written to {file}; next:\n  {suggestion.command(request.out)}")  # noqa: T201
    return 0


def as_overrides(options: Mapping[str, str]) -> list[str]:
    """Options by key as on the command line."""
    return [f"{key}={value}" for key, value in options.items()]


def requested(arguments: Sequence[str]) -> Request:
    """The request of a command line; raises ConfigError for options that cannot be searched with."""
    if unknown := [argument for argument in arguments if "=" not in argument or argument.startswith("-")]:
        raise ConfigError(f"{unknown[0]} is no option of a search; usage: {USAGE}")
    options = dict(argument.split("=", 1) for argument in arguments)
    problems = [f"{key}=… is missing; usage: {USAGE}" for key in ("model", "editor") if key not in options]
    problems += [
        f"{key}={options[key]}: a search is for one {key} at a time"
        for key in ("model", "editor")
        if "," in options.get(key, "")
    ]
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


def described(request: Request) -> dict[str, Any]:
    """The nodes of the model, the editor, its regularizers and blocks, as far as they have values.

    Raises:
        ConfigError: as the configuration, and for a model of unknown depth.
    """
    # the blocks of the editor refer to those of the pair, which may have none
    overrides = [
        *as_overrides(request.options),
        *([] if "layers.edit" in request.options else ["layers.edit=[0]"]),
    ]
    nodes = composed(overrides, ("model", "editor", "regularizer", "layers", "moments"), may_lack_values=True)
    if not nodes["model"].get("depth"):
        raise ConfigError(f"model={request.options['model']} has no model.depth, the number of its blocks")
    return nodes


def guessed(nodes: Mapping[str, Any]) -> tuple[str, Values]:
    """Where the first trial comes from, and its values by key.

    Raises:
        ConfigError: if no model has numbers for the editor.
    """
    editor, depth = nodes["editor"]["name"], nodes["model"]["depth"]
    others = published(editor)
    keys = {key for values in others.values() for key in values}
    own = flat({key: nodes[key] or {} for key in ("editor", "regularizer")})
    values = {
        key: own[key] for key in keys if own.get(key, "???") not in (None, "???") and not are_blocks(own[key])
    }
    blocks = nodes["layers"].get("published", "???")
    if blocks != "???":
        return "the values that the pair has", values | {LAYERS: blocks}
    origin, guess = nearest(editor, depth)
    if not guess:
        raise ConfigError(
            f"editor={editor} has no values for any model in conf/hparams from which a search could begin: "
            f"write conf/hparams/{nodes['model']['name']}/{editor}.yaml"
        )
    return f"the values of {origin}", {**values, **guess}


def check_measurable(parts: Parts) -> None:
    """Raise a ConfigError if the score of a trial cannot be measured with its facts.

    Raises DataError as loading the facts does, and for too few of them.
    """
    facts = parts.intervention.plan(parts.data.load()).stream
    (neighbours,) = (stage.neighbours for stage in parts.stages if isinstance(stage, Efficacy))
    if not (kinds := unmeasured(facts, neighbours)):
        return
    scores = " and ".join(_SCORES[kind] for kind in kinds)
    absent = [name for field, name in _FIELDS.items() if not any(getattr(fact, field) for fact in facts)]
    raise ConfigError(
        f"the {len(facts)} facts of data={parts.data.name} do not measure {scores}, but a search compares "
        f"trials by ES, PS and NS: add {' and '.join(absent) or 'all fields to the same facts'} "
        "(docs/data.md), or leave out data, so that the search takes facts of its own"
    )


def traced(
    request: Request, nodes: Mapping[str, Any], compute: Callable[[Sequence[str]], None]
) -> int | None:
    """The block whose MLP carries known facts; None, with a message, if no fact can be traced."""
    options = {key: value for key, value in request.options.items() if key not in _TRACE and key != "edits"}
    name = f"suggest-{nodes['model']['name']}-tracing"
    overrides = as_overrides(_data(request, nodes) | options | _TRACE | {"name": name})
    try:
        compute(overrides)
        peak = RunFolder(folder_of(OUTPUTS, composed_run(overrides))).final_summary()["metrics"][_PEAK]
    except DataError as error:
        log.warning("blocks are searched around the guess alone, because nothing can be traced: %s", error)
        return None
    log.info("causal tracing: the MLPs around block %d carry what the model knows", peak)
    return int(peak)


def trial(request: Request, nodes: Mapping[str, Any], space: Box) -> dict[str, str]:
    """The options of one run, without those that are searched."""
    edits = request.options.get("edits", "50")
    kind = import_target(nodes["editor"]["_target_"])
    largest = getattr(kind, "largest_batch", Editor.largest_batch)
    fixed = {key: as_text(value) for key, value in space.fixed.items()}
    return {
        **_MEASURED,
        **_data(request, nodes),
        "edits": edits,
        "batch_size": edits if largest is None else str(min(int(edits), largest)),
        **fixed,
        **request.options,
    }


def searched(request: Request, space: Box) -> dict[str, str]:
    """The options of the search itself: what is searched, from where, and how long."""
    several = {key: value for key, value in space.space.items() if key not in request.options}
    own = (*request.options, *request.ranges)
    first = ",".join(f"{key}:{_quoted(value)}" for key, value in space.guess.items() if key not in own)
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


def _one_pass(nodes: Mapping[str, Any], candidates: Sequence[Sequence[int]]) -> dict[str, str]:
    """The option by which one pass over the text collects the moments of all blocks that are tried."""
    moments = nodes.get("moments") or {}
    if "_target_" not in moments or not hasattr(import_target(moments["_target_"]), "layers"):
        return {}
    return {"+moments.layers": as_text(sorted({block for blocks in candidates for block in blocks}))}


def _data(request: Request, nodes: Mapping[str, Any]) -> dict[str, str]:
    """Facts that no experiment uses, if the options name none; for models of the built-in world its own."""
    if {"data", "facts"} & set(request.options):
        return {}
    corpus = nodes["model"].get("corpus") or {}
    if corpus.get("_target_", "").startswith("pipeline.data.world."):
        return {"data": "world"}
    model = request.options["model"]
    known = {"data.known_by": model} if model in known_models() else {}
    return {"data": "atlas", "data.part": "tuning", **known}


def _quoted(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
