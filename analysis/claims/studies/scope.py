"""Where the claims hold: models, sizes, domains, kinds of training, optimisers."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Measure, changes
from analysis.claims.studies.growth import every_update, growth, laws_by
from analysis.claims.study import (
    DOWNSTREAM,
    EDITED,
    KNOWN,
    LATE,
    NORM_GROWTH,
    NOTICEABLE,
    OPEN,
    PROBE,
    Drawing,
    Study,
    Table,
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
        last = evidence.last(EDITED)
        return evidence.labelled(last[(decays == decayed)[last.index]], by)

    return measure


def _by_kind(
    says: str, told: str, source: str, quantity: str, values: Callable[[Evidence], pd.Series]
) -> tuple[Claim, Claim]:
    """That a number falls under edits, which the source speaks of, and that it does under training."""

    def claim(kind: str, source: str, told: str, *, edits: bool) -> Claim:
        def measure(evidence: Evidence) -> pd.DataFrame:
            found = values(evidence)
            is_edit = evidence.runs["intervention"].reindex(found.index) == _EDITS
            return evidence.labelled(found[is_edit == edits], _WHERE)

        return Claim(
            says=f"{says}: {kind}.",
            source=source,
            told=told,
            quantity=quantity,
            measure=measure,
            side="below",
            threshold=0.0,
            least=NOTICEABLE,
        )

    return claim("edits", source, told, edits=True), claim("training", OPEN, "–", edits=False)


def _price(evidence: Evidence) -> TrackChart | None:
    """A point for each run that grew: by how much, and what became of downstream ability."""
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
                lambda evidence: evidence.last(LATE) - 1,
            ),
            *_by_kind(
                "Probes trained on the unedited model lose accuracy",
                "activations move to completely different regions",
                f"{NORM_GROWTH}, abstract",
                "mean accuracy of the layer-pair probes, at the end minus at the start",
                lambda evidence: evidence.change(PROBE),
            ),
            *_by_kind(
                "Downstream ability falls",
                "falls",
                f"a digest of {NORM_GROWTH}",
                "mean downstream accuracy, at the end minus at the start",
                lambda evidence: evidence.change(DOWNSTREAM),
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
            Claim(
                says="Never-edited facts are lost.",
                source=OPEN,
                told="–",
                quantity="share of never-edited facts still known, at the end minus at the start",
                measure=changes(KNOWN, ("model", "editor")),
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
        ),
        figures=("norms", "known"),
        series=("editor", "model"),
        lines=4,
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
                says="Norms grow under every optimiser, in continual pretraining at one rate.",
                source=f"{NORM_GROWTH}, abstract",
                told="always",
                quantity="‖W‖ / ‖W₀‖ at the end, without weight decay; the mean is geometric",
                measure=_grown(("intervention.optimizer.kind",), decayed=False),
                side="above",
                threshold=1.0,
                ratio=True,
                always=True,
            ),
            Claim(
                says="They grow in spite of weight decay.",
                source=OPEN,
                told="–",
                quantity="‖W‖ / ‖W₀‖ at the end, with weight decay; the mean is geometric",
                measure=_grown(("intervention.optimizer.kind", "intervention.weight_decay"), decayed=True),
                side="above",
                threshold=1.0,
                ratio=True,
            ),
        ),
        figures=("training", "loss"),
        series=("intervention.weight_decay", "intervention.optimizer.kind"),
        lines=5,
        tables=(Table(title="At the end, by optimiser and weight decay", build=_optimisers),),
    ),
)
