"""The figures of the papers, drawn from the tidy table of any set of runs.

A figure is one row of `FIGURES` with a function from the data to a chart. It is left out if the function
returns None, because the table has none of its keys. Lines are means over seeds, thin lines single seeds, and
bands, from five seeds on, 95 % intervals of the mean.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.plots.charts.save import Chart, Format, save
from analysis.plots.figures.profiles import FigureData, over_tokens
from analysis.plots.figures.scores import ability, alarms, downstream, edit_scores, known_facts, retention
from analysis.plots.figures.states import activation_ratio, probe_curves, probe_matrix, shares
from analysis.plots.figures.tracing import layer_sweep, tracing
from analysis.plots.figures.training import adapters, training, training_loss
from analysis.plots.figures.weights import growth, norm_layers, norm_ratio, singular
from editors.errors import ConfigError

X = Literal["steps", "tokens"]
"""The x-axis of figures of training."""


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """One figure: its number, names, caption and the function that builds its chart."""

    number: str
    """For example `5a`; on the command line `5` selects all of its parts."""
    name: str
    """Name of the file and on the command line."""
    title: str
    caption: str
    build: Callable[[FigureData], Chart | None]

    def matches(self, choice: str) -> bool:
        """Whether a name or number on the command line means this figure."""
        return choice in (self.name, self.number, self.number.rstrip("abc"))


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        number="1",
        name="training",
        title="Norm in training",
        caption="Frobenius norm of the attention and of the MLP matrices (stacked) relative to the model "
        "before training; of the runs that train, and of others that change attention matrices.",
        build=training,
    ),
    FigureSpec(
        number="2",
        name="norms",
        title="Norm of the edited matrices",
        caption="Frobenius norm of the edited or trained matrices (stacked) relative to the unedited model.",
        build=norm_ratio,
    ),
    FigureSpec(
        number="3",
        name="layers",
        title="Norm by block",
        caption="Frobenius norm of every block's matrix in the unedited model and after as many edits or "
        "optimiser steps as a panel's title says. Kinds of matrix that no run changed are not shown.",
        build=norm_layers,
    ),
    FigureSpec(
        number="4",
        name="activations",
        title="Activation norm by block",
        caption="Mean norm over tokens of the residual stream after each block, and of what attention and "
        "MLP add to it, relative to the unedited model on the same texts.",
        build=activation_ratio,
    ),
    FigureSpec(
        number="5a",
        name="probe_matrix",
        title="Probe accuracy by pair of blocks",
        caption="Accuracy of a linear probe, trained on the unedited model, that tells the activations of "
        "two blocks apart; 0.5 is chance, and lower values have its colour. Means over seeds.",
        build=probe_matrix,
    ),
    FigureSpec(
        number="5b",
        name="probes",
        title="Probe accuracy",
        caption="Accuracy of the probes that tell two blocks apart: mean over all pairs, over pairs with an "
        "edited block, and of probes that see the norm alone; and of the probe that tells edited from "
        "unedited activations of the same block.",
        build=probe_curves,
    ),
    FigureSpec(
        number="6",
        name="shares",
        title="Share in the residual stream",
        caption="Norm of each contribution to the residual stream over the sum of all such norms, by depth, "
        "averaged over tokens; “in” is the input of block 0.",
        build=shares,
    ),
    FigureSpec(
        number="7",
        name="downstream",
        title="Downstream ability",
        caption="Accuracy on downstream tasks; “mean” is their plain average. Of a group of tasks, such as "
        "MMLU, the whole is shown.",
        build=downstream,
    ),
    FigureSpec(
        number="8a",
        name="scores",
        title="Edit scores and retention",
        caption="Share of facts for which the wanted object is more probable than the other one: over all "
        "edits so far (of a long sequence over a draw of them, but for the last point) on the edited prompt, "
        "its paraphrases and neighbours, and over the first 50 edits.",
        build=edit_scores,
    ),
    FigureSpec(
        number="8b",
        name="retention",
        title="Retention by age",
        caption="Share of edits that still hold, by how many edits ago they were made, after as many edits "
        "or optimiser steps as a panel's title says.",
        build=retention,
    ),
    FigureSpec(
        number="8c",
        name="known",
        title="Facts that nobody edited",
        caption="Share of unedited facts that the model still answers with the true object: of subjects that "
        "were never edited, and other facts of edited subjects.",
        build=known_facts,
    ),
    FigureSpec(
        number="9",
        name="ability",
        title="Downstream ability against the norm",
        caption="Mean downstream accuracy against the norm of the edited matrices, a point per measurement, "
        "joined in the order of measuring. Crosses: 95 % intervals over seeds, at some points where there "
        "are many.",
        build=ability,
    ),
    FigureSpec(
        number="10",
        name="singular",
        title="Leading singular values",
        caption="Leading singular values of the matrices that changed, geometric mean over the matrices; the "
        "largest is drawn strongest.",
        build=singular,
    ),
    FigureSpec(
        number="11",
        name="growth",
        title="Why the norm grows",
        caption="Growth of the edited matrices' squared norm since the editing began, split into the cross "
        "term and the squared updates, relative to the squared norm before. The two add up to "
        "(‖W‖ / ‖W₀‖)² − 1.",
        build=growth,
    ),
    FigureSpec(
        number="12",
        name="alarms",
        title="Order of alarms",
        caption="Edits or optimiser steps at which each alarm fired, the earliest signature at the top: a "
        "dot per run, a bar at the mean of the runs in which it fired, and in how many that was.",
        build=alarms,
    ),
    FigureSpec(
        number="13",
        name="adapters",
        title="Norm of low-rank adapters",
        caption="Frobenius norm of what the adapters add to the weights, ΔW, and of its two factors, all "
        "adapted matrices stacked (root of the sum of squares).",
        build=adapters,
    ),
    FigureSpec(
        number="14",
        name="loss",
        title="Training loss",
        caption="Mean loss of the tokens that an optimiser step read, before that step.",
        build=training_loss,
    ),
    FigureSpec(
        number="15",
        name="tracing",
        title="Where facts are carried",
        caption="Causal tracing: how much of the true object’s probability, which noise at the subject takes "
        "away, comes back when one clean state, or what MLP or attention write in a window of blocks around "
        "one, is put back there. Means over facts and seeds; values below 0 have its colour.",
        build=tracing,
    ),
    FigureSpec(
        number="16",
        name="layer_sweep",
        title="Success by edited block",
        caption="Scores over all edits of runs that edit one block each, by that block; of editors that were "
        "run on several blocks, all else being equal. The score is the harmonic mean of the other three.",
        build=layer_sweep,
    ),
)


def charts(
    metrics: pd.DataFrame,
    only: Sequence[str] = (),
    *,
    at: Sequence[int] = (),
    x: X = "steps",
    figures: Sequence[FigureSpec] = FIGURES,
) -> list[tuple[FigureSpec, Chart]]:
    """Those of `figures` for which the table has keys, in their order.

    `only` selects figures by name or number, `at` the counts of profiles. Training is drawn over optimiser
    steps or, with `x="tokens"`, over the tokens read, if these were logged. Raises ConfigError for an unknown
    figure.
    """
    specs = selected_figures(only, figures)
    data = FigureData(metrics=over_tokens(metrics) if x == "tokens" else metrics, at=at)
    built = [(spec, spec.build(data)) for spec in specs]
    return [(spec, chart) for spec, chart in built if chart is not None]


def selected_figures(only: Sequence[str], figures: Sequence[FigureSpec] = FIGURES) -> list[FigureSpec]:
    """The figures with these names and numbers, all if `only` is empty; ConfigError for an unknown one."""
    for choice in only:
        if not any(spec.matches(choice) for spec in figures):
            choices = ", ".join(f"{spec.number} {spec.name}" for spec in figures)
            raise ConfigError(
                f"figure {choice!r} does not exist; choose names or numbers from {choices}, or name "
                "the module of a figure of your own with --plugin"
            )
    return [spec for spec in figures if not only or any(map(spec.matches, only))]


def save_figures(
    figures: Iterable[tuple[FigureSpec, Chart]],
    folder: Path,
    formats: Sequence[Format] = ("png", "svg", "pdf"),
) -> list[Path]:
    """Write every chart in every format as `folder/<name>.<format>`."""
    return [path for spec, chart in figures for path in save(chart, folder / spec.name, formats)]
