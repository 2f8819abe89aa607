"""Studies of where the claims hold: models, sizes, domains, kinds of training, optimisers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Measure, Values, change, changes, last
from analysis.claims.studies.activations import late_halves
from analysis.claims.studies.growth import every_update, growth, laws_by
from analysis.claims.study import (
    DOWNSTREAM,
    EDITED,
    KNOWN,
    LATE,
    NORM_GROWTH,
    PROBE,
    SOURCE_EDITS,
    Drawing,
    Study,
    Table,
    falls,
)
from analysis.claims.verdicts import Claim
from analysis.plots.charts.canvas import PALETTE
from analysis.plots.charts.points import Spread, Track, TrackChart
from analysis.plots.charts.scales import scale_for

_WHERE = ("model", "intervention", "data")
_EDITS = "knowledge_edit"


def _grown(by: Sequence[str], *, decayed: bool) -> Measure:
    """Norm ratio of the runs with, or without, weight decay."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        decays = pd.to_numeric(evidence.setting("intervention.weight_decay"), errors="coerce") > 0
        ratios = evidence.last(EDITED)
        return evidence.repeats(ratios[(decays == decayed)[ratios.index]], by)

    return measure


def _by_kind(
    statement: str, reported: str, source: str, quantity: str, values: Values
) -> tuple[Claim, Claim]:
    """The claims that a number falls under edits, as the source says, and that it falls under training."""

    def measure(*, edits: bool) -> Measure:
        def numbers_of_kind(evidence: Evidence) -> pd.DataFrame:
            numbers = values(evidence)
            is_edit = evidence.runs["intervention"].reindex(numbers.index) == _EDITS
            return evidence.repeats(numbers[is_edit == edits], _WHERE)

        return numbers_of_kind

    edited = falls(f"{statement}: edits.", quantity, measure(edits=True), source=source, reported=reported)
    return (
        replace(edited, source_length=SOURCE_EDITS),
        falls(f"{statement}: training.", quantity, measure(edits=False)),
    )


def _price(evidence: Evidence) -> TrackChart | None:
    """One point per run that grew: its growth and the change of downstream ability."""
    ends = pd.DataFrame({"growth": evidence.last(EDITED) - 1, "ability": evidence.change(DOWNSTREAM)})
    ends = ends[np.isfinite(ends["growth"]) & np.isfinite(ends["ability"]) & (ends["growth"] > 0)]
    if ends.empty:
        return None
    notes = evidence.cases(("model", "data")).reindex(ends.index)
    kinds = evidence.runs["intervention"].reindex(ends.index)
    return TrackChart(
        tracks=tuple(
            Track(
                label=str(kind),
                colour=colour,
                x=Spread.exact(rows["growth"].tolist()),
                y=Spread.exact(rows["ability"].tolist()),
                notes=notes[rows.index].tolist(),
                joined=False,
            )
            for colour, (kind, rows) in zip(PALETTE, ends.groupby(kinds), strict=False)
        ),
        x_label="‖W‖ / ‖W₀‖ − 1 of the updated matrices",
        y_label="change of downstream accuracy",
        scale=scale_for(ends["growth"].to_numpy()),
    )


def _optimisers(evidence: Evidence) -> pd.DataFrame:
    by = [
        evidence.setting("intervention.optimizer.kind").rename("optimiser"),
        evidence.setting("intervention.weight_decay").rename("weight decay"),
    ]
    numbers = {
        "norm ratio": evidence.last(EDITED),
        "growing steps": evidence.steady(EDITED),
        "training loss": evidence.last("train/loss/step"),
        "downstream": evidence.last(DOWNSTREAM),
    }
    return evidence.averages(numbers, by)


STUDIES = (
    Study(
        name="universality",
        question="Do norms grow in every family, size, data domain and kind of training? Edits are MEMIT's.",
        claims=(
            growth(_WHERE),
            *_by_kind(
                "The norms of later activations decrease",
                "decrease",
                f"{NORM_GROWTH}, abstract",
                "late activations' norm ratio minus 1 at the end",
                last(LATE, minus=1.0),
            ),
            *_by_kind(
                "Probes trained on the unedited model lose accuracy",
                "activations move to completely different regions",
                f"{NORM_GROWTH}, abstract",
                "mean accuracy of the layer-pair probes, at the end minus at the start",
                change(PROBE),
            ),
            *_by_kind(
                "Downstream ability falls",
                "falls",
                f"a digest of {NORM_GROWTH}",
                "mean downstream accuracy, at the end minus at the start",
                change(DOWNSTREAM),
            ),
        ),
        figures=(),
        drawings=(
            Drawing(
                name="price",
                caption="Change of downstream accuracy against norm growth at the end, a point for each run "
                "that grew; what is updated, how often and towards what differs between the kinds.",
                build=_price,
            ),
        ),
    ),
    Study(
        name="cross_architecture",
        question="Do the same editors make the norm grow in the same way in every architecture? Each editor "
        "has its own values for each model (`conf/hparams`).",
        claims=(
            growth(("model", "editor")),
            every_update(("model", "editor")),
            falls(
                "Never-edited facts are lost.",
                "share of never-edited facts still known, at the end minus at the start",
                changes(KNOWN, ("model", "editor")),
            ),
            late_halves(("model", "editor")),
        ),
        figures=("norms", "activations", "known"),
        series=("editor", "model"),
        facets=("model",),
        tables=(laws_by(("model", "editor")),),
    ),
    Study(
        name="optimizer_sweep",
        question="Is it AdamW that makes norms grow in continual pretraining, and does weight decay stop it? "
        "Each optimiser takes one rate times a factor of its own (100 for SGD, which has momentum, 3 for "
        "Adagrad, else 1; untuned); SGD, RMSprop and Adagrad add the decay to the gradient: growth is not to "
        "be compared between them.",
        claims=(
            Claim(
                statement="Norms grow under every optimiser, in continual pretraining at one rate.",
                source=f"{NORM_GROWTH}, abstract",
                reported="always",
                quantity="‖W‖ / ‖W₀‖ at the end, without weight decay; the mean is geometric",
                measure=_grown(("intervention.optimizer.kind",), decayed=False),
                side="above",
                threshold=1.0,
                ratio=True,
                always=True,
            ),
            Claim(
                statement="They grow in spite of weight decay.",
                quantity="‖W‖ / ‖W₀‖ at the end, with weight decay; the mean is geometric",
                measure=_grown(("intervention.optimizer.kind", "intervention.weight_decay"), decayed=True),
                side="above",
                threshold=1.0,
                ratio=True,
            ),
        ),
        figures=("training", "loss"),
        series=("intervention.weight_decay", "intervention.optimizer.kind"),
        facets=("intervention.weight_decay",),
        tables=(Table(title="At the end, by optimiser and weight decay", build=_optimisers),),
    ),
)
