"""The best values of a search: their file in `conf/hparams`, and what to expect of them in plain words."""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.results.outcome import in_words, mostly_missed
from analysis.results.run_files import Outcome
from analysis.results.run_folder import RunFolder
from analysis.selection import OUTPUTS
from pipeline.commands.suggestions.search_request import Request, as_overrides
from pipeline.config.models.missing import OF_A_RUN, group_of
from pipeline.paths import CONF
from pipeline.runs import atomic_files
from pipeline.sweeps.box import EDITED

LEAST = 0.9
"""ES that values have to reach to be worth a file; most edits have to take besides."""
KEPT = 0.5
"""NS below which more of the neighbours change their answer than keep it."""
NOISE = 0.02
"""Difference of two scores below which the norms decide; it is well within their scatter for 50 facts."""
_WIDTH = 108
VALUES = ("editor.", "regularizer.", "layers.")
"""Beginnings of the keys of values, which the file holds."""
_ES, _STEPS, _NORM = "edit/success/seen.rewrite", "edit/optimiser_steps/mean", "norm/frobenius_ratio/edited"
_NS, _SCORE = "edit/success/seen.neighbour", "edit/score/seen"
_PRESERVED, _CONSTRAINED = "edit/preservation/mean", "edit/constraint_share/mean"
_MEANINGS = {
    "ES": (_ES, "of the new objects are likelier than the old ones"),
    "PS": ("edit/success/seen.paraphrase", "of their paraphrases follow"),
    "NS": (_NS, "of the prompts of neighbours keep their answer"),
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial with a result."""

    number: int
    values: Mapping[str, Any]
    """The values that were searched, by key."""
    metrics: Mapping[str, float]
    """The last value of every metric of its run."""
    outcome: Outcome | None = None
    """How many of its edits took; None if none was checked."""

    @property
    def fault(self) -> str | None:
        """Why its values are not worth a file; None if they are."""
        if self.metrics.get(_ES, 0.0) < LEAST or (self.outcome is not None and mostly_missed(self.outcome)):
            return "too few of the facts are written"
        return None if self.metrics[_SCORE] > 0 else "no paraphrase or no neighbour is right"

    @property
    def caution(self) -> str | None:
        """What speaks against its values although they write the facts; None if nothing does."""
        harms = self.metrics.get(_NS, 1.0) < KEPT
        return "more of the neighbours change their answer than keep it" if harms else None


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The best trial of a search."""

    request: Request
    """The search as it was given."""
    values: Mapping[str, Any]
    """Values by key; numbers have three digits."""
    chosen: Trial
    """The trial with these values."""
    first: float | None
    """Score of the first trial; None if it has none."""
    origin: str
    """Where the values of the first trial come from."""
    peak: int | None
    """The block at which causal tracing peaks; None if nothing was traced."""
    trials: int
    """Trials with a result."""
    facts: str
    """Facts of a trial: their number and source."""
    batch: int
    """Facts edited together."""

    @property
    def advice(self) -> str:
        """What to try if the values are not worth a file."""
        numbers = [key for key, value in self.values.items() if isinstance(value, float)]
        ranges = f"another range, such as '{numbers[0]}=tag(log,interval(LOW,HIGH))', " if numbers else ""
        return (
            f"try trials={2 * self.trials}, which continues the search, other blocks, such as "
            f"'layers.edit=choice([0,1],[2,3])', {ranges}or another editor"
        )

    @property
    def score(self) -> float:
        """The harmonic mean of ES, PS and NS."""
        return self.chosen.metrics[_SCORE]

    def lines(self) -> Iterator[str]:
        """What to expect of the values."""
        yield f"suggested after {self.trials} trials with {self.facts}, edited {self._how}:"
        for name, (key, meaning) in _MEANINGS.items():
            if key in self.chosen.metrics:
                yield f"  {name} {self.chosen.metrics[key]:6.1%} {meaning}"
        if self.chosen.outcome is not None:
            yield f"  {in_words(self.chosen.outcome)}: the new object is the model's first choice"
        if _NORM in self.chosen.metrics:
            yield f"  the norm of the edited matrices grows by a factor of {self.chosen.metrics[_NORM]:.4f}"
        if _PRESERVED in self.chosen.metrics:
            yield f"  what is preserved weighs {self._strength}, which can be compared with other models"
        if self.chosen.caution:
            yield f"  caution: {self.chosen.caution}"
        if self.first is not None:
            yield f"  score {self.score:.3f}; the first trial, with {self.origin}, reaches {self.first:.3f}"

    def command(self, out: Path, python: str = "python") -> str:
        """The command of a run with the values, which lie in the configuration folder `out`."""
        folder = [] if out == CONF else ["--config-dir", str(out)]
        batch = [f"batch_size={self.batch}"] if self.batch > 1 else []
        options = [
            f"{key}={value}"
            for key, value in sorted(self.request.options.items(), key=_pair_first)
            if group_of(key) not in (*OF_A_RUN, "moments") and not key.lstrip("+").startswith(VALUES)
        ]
        return f"{python} -m pipeline {shlex.join([*folder, *options, *batch])}"

    def write(self, file: Path) -> None:
        """Write the file of hparams, with its command, its source and the results in the header."""
        lines = ["# @package _global_", f"# {self.command(CONF)}"]
        lines += [f"# {line}" for line in textwrap.wrap(self._found(), _WIDTH)]
        given = as_overrides({**self.request.options, **self.request.ranges})
        given = shlex.join([*given, f"trials={self.trials}"])
        lines += [f"# python -m pipeline suggest {given}"]
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write(file, "\n".join([*lines, _yaml(self.values)]))

    @property
    def _strength(self) -> str:
        """The weight of what is preserved, and of a norm constraint beside it, without dimension."""
        metrics = self.chosen.metrics
        constraint = f", r = {metrics[_CONSTRAINED]:.2g}" if _CONSTRAINED in metrics else ""
        return f"λp tr(C)/d = {metrics[_PRESERVED]:.3g}{constraint}"

    @property
    def _how(self) -> str:
        return f"{self.batch} at a time" if self.batch > 1 else "one by one"

    def _found(self) -> str:
        """Source and results in one paragraph."""
        metrics = self.chosen.metrics
        scores = {name: key for name, (key, _) in _MEANINGS.items()} | {"score": _SCORE}
        results = [f"{name} {metrics[key]:.2f}" for name, key in scores.items() if key in metrics]
        if self.chosen.outcome is not None:
            results.append(in_words(self.chosen.outcome))
        if _STEPS in metrics:
            results.append(f"{metrics[_STEPS]:.0f} steps a fact")
        if _NORM in metrics:
            results.append(f"norm ratio {metrics[_NORM]:.4f}")
        if _PRESERVED in metrics:
            results.append(self._strength)
        sentences = [
            f"Ours: the best of {self.trials} trials with {self.facts}, edited {self._how}: "
            f"{', '.join(results)}."
        ]
        if self.chosen.caution:
            sentences.append(f"Caution: {self.chosen.caution}.")
        if self.first is not None:
            sentences.append(f"The first, with {self.origin}, scores {self.first:.2f}.")
        if self.peak is not None:
            sentences.append(f"Causal tracing peaks at block {self.peak}.")
        return " ".join(sentences)


def _pair_first(option: tuple[str, str]) -> bool:
    """Sorts the model and the editor before all other options."""
    return option[0] not in ("model", "editor")


def trials_of(name: str) -> list[Trial]:
    """The trials of the search in `outputs/<name>` that have a result."""
    # imported here, because Optuna is an extra
    from pipeline.sweeps.retries import RUN
    from pipeline.sweeps.study_store import complete_trials

    trials = complete_trials(f"sqlite:///{OUTPUTS / name}/study.db", name)
    summaries = [RunFolder(OUTPUTS / name / trial.user_attrs[RUN]).final_summary() for trial in trials]
    return [
        Trial(
            number=trial.number,
            values=trial.params,
            metrics=summary["metrics"],
            outcome=summary.get("outcome"),
        )
        for trial, summary in zip(trials, summaries, strict=True)
    ]


def best(
    trials: Sequence[Trial],
    request: Request,
    options: Mapping[str, str],
    fixed: Mapping[str, Any],
    origin: str,
    peak: int | None,
) -> Suggestion:
    """The trial whose norms grow least among those with nearly the best score; first those without a fault.

    Args:
        trials: Trials with a result, at least one.
        request: The search as it was given.
        options: All options of the search.
        fixed: Values that were not searched.
        origin: Where the values of the first trial come from.
        peak: Block at which causal tracing peaks.
    """
    own = {key: value for key, value in request.options.items() if key.startswith(VALUES)}
    source = " ".join(f"{key}={options[key]}" for key in ("data", "data.part", "data.path") if key in options)
    worth = [trial for trial in trials if trial.fault is None] or trials
    worth = [trial for trial in worth if trial.caution is None] or worth
    most = max(trial.metrics[_SCORE] for trial in worth)
    good = [trial for trial in worth if trial.metrics[_SCORE] >= most - NOISE]
    chosen = min(good, key=lambda trial: (trial.metrics.get(_NORM, 1.0), -trial.metrics[_SCORE]))
    return Suggestion(
        request=request,
        values={key: _plain(value) for key, value in {**fixed, **own, **chosen.values}.items()},
        chosen=chosen,
        first=next((trial.metrics[_SCORE] for trial in trials if trial.number == 0), None),
        origin=origin,
        peak=peak,
        trials=len(trials),
        facts=f"{options['edits']} facts of {source}" if source else f"{options['edits']} facts",
        batch=int(options["batch_size"]),
    )


def _plain(value: object) -> object:
    """A number with three digits; a text that stands for a value in YAML as this value."""
    if isinstance(value, str):
        return yaml.safe_load(value)
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _yaml(values: Mapping[str, Any]) -> str:
    """The values as a file of hparams, blocks first."""
    nested: dict[str, Any] = {"layers": {"published": values[EDITED]}} if EDITED in values else {}
    for key, value in values.items():
        if key == EDITED:
            continue
        *path, last = key.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return yaml.safe_dump(nested, sort_keys=False, default_flow_style=None, width=_WIDTH)
