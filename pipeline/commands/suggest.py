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
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.results.run_folder import RunFolder
from analysis.selection import OUTPUTS
from analysis.stages.efficacy.records import unmeasured
from analysis.stages.efficacy.stage import Efficacy
from editors.errors import ConfigError, DataError
from pipeline.build import Parts, build
from pipeline.commands.suggestions.search_request import (
    Request,
    as_overrides,
    first_point,
    one_pass,
    own_facts,
    requested,
    searched,
    trial,
)
from pipeline.commands.suggestions.suggestion import VALUES, best, trials_of
from pipeline.config.models.described import description
from pipeline.config.models.published import LAYERS, Values, are_blocks, as_text, flat, nearest, published
from pipeline.config.schema import composed, composed_run
from pipeline.data.opened_texts import open_texts
from pipeline.paths import shown_python
from pipeline.runs.layout import folder_of
from pipeline.sweeps.box import EDITED, box, ranges
from pipeline.sweeps.search import trials_class

log = logging.getLogger(__name__)

_SCORES = {"rewrite": "ES", "paraphrase": "PS", "neighbour": "NS"}
_FIELDS = {"target_true": "true objects", "paraphrases": "paraphrases", "neighbours": "neighbours"}
"""Fields of facts that the scores need, in words."""
_PEAK = "trace/peak/mlp"
_TRACED = 20
"""Facts whose causal trace says where the model looks facts up."""
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
    check_new(file)
    origin, guess = guessed(nodes)
    values = [*published(editor["name"]).values()]
    space = box(values, guess, [guess[LAYERS]])
    first = {key: as_text(value) for key, value in space.guess.items()}
    parts = build(composed_run(as_overrides(first | trial(request, nodes, space))))
    check_measurable(parts)
    open_texts([parts.intervention, *parts.stages], parts.model.name)
    trials_class()  # a search without Optuna ends before any work
    first_point(request, space)  # as does one with a range that cannot be read
    peak = traced(request, nodes, compute) if len(guess[LAYERS]) < model["depth"] else None
    candidates = ranges(guess[LAYERS], peak, model["depth"])
    space = box(values, guess, candidates)
    point = first_point(request, space)
    options = trial(request, nodes, space) | searched(request, space, point) | {"name": name}
    if EDITED not in {*request.options, *request.ranges}:
        options |= one_pass(nodes, candidates)
    given = [
        key for key in (*request.options, *request.ranges) if key.startswith(VALUES) and key not in point
    ]
    origin += f", apart from {', '.join(given)}" if given else ""
    log.info("search: %d trials of %s facts; the first has %s", request.trials, options["edits"], origin)
    compute(as_overrides(options))
    suggestion = best(trials_of(name), request, options, space.fixed, origin, peak)
    print(*suggestion.lines(), sep="\n")  # noqa: T201
    if fault := suggestion.chosen.fault:
        return f"{fault}, so there is no file: {suggestion.advice}"
    suggestion.write(file)
    print(f"written to {file}; next:\n  {suggestion.command(request.out, shown_python())}")  # noqa: T201
    return 0


def check_new(file: Path) -> None:
    """Raise a ConfigError if the file exists already, or cannot be written with its folders."""
    if file.exists():
        raise ConfigError(f"{file} exists already: move it away, or give out=FOLDER for a new one")
    folder = next(folder for folder in file.parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "is not writable" if folder.is_dir() else "is a file"
        raise ConfigError(f"{file} cannot be written, because {folder} {reason}: give out=FOLDER")


def described(request: Request) -> dict[str, Any]:
    """The nodes of the model, the editor, its regularizers and blocks, as far as they have values.

    Raises:
        ConfigError: as the configuration, and for a model of unknown depth.
        ModelError: for a model whose configuration cannot be read.
    """
    # the blocks of the editor refer to those of the pair, which may have none
    overrides = [
        *as_overrides(request.options),
        *(f"{key}=null" for key in request.ranges if key != EDITED),  # tells of keys that there are not
        *([] if EDITED in request.options else [f"{EDITED}=[0]"]),
    ]
    nodes = composed(overrides, ("model", "editor", "regularizer", "layers", "moments"), may_lack_values=True)
    if not nodes["model"].get("depth"):
        description(*(nodes["model"].get(key) for key in ("path", "revision", "gguf")))  # tells what is wrong
        raise ConfigError(f"model={request.options['model']} has no model.depth, the number of its blocks")
    return nodes


def guessed(nodes: Mapping[str, Any]) -> tuple[str, Values]:
    """Where the first trial comes from, and its values by key.

    Raises:
        ConfigError: if no model has numbers for the editor.
    """
    editor, depth = nodes["editor"]["name"], nodes["model"]["depth"]
    others = published(editor)
    keys = dict.fromkeys(key for values in others.values() for key in values)  # a set has no fixed order
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
        "(docs/data.md), or leave them out, so that the search takes facts of its own"
    )


def traced(
    request: Request, nodes: Mapping[str, Any], compute: Callable[[Sequence[str]], None]
) -> int | None:
    """The block whose MLP carries known facts; None, with a message, if no fact can be traced."""
    options = {key: value for key, value in request.options.items() if key not in _TRACE and key != "edits"}
    name = f"suggest-{nodes['model']['name']}-tracing"
    overrides = as_overrides(own_facts(request, nodes) | options | _TRACE | {"name": name})
    try:
        compute(overrides)
        peak = RunFolder(folder_of(OUTPUTS, composed_run(overrides))).final_summary()["metrics"][_PEAK]
    except DataError as error:
        log.warning("blocks are searched around the guess alone, because nothing can be traced: %s", error)
        return None
    log.info("causal tracing: the MLPs around block %d carry what the model knows", peak)
    return int(peak)
