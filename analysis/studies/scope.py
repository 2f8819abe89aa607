"""Where the claims hold: models, sizes, domains, kinds of training, optimisers."""

import pandas as pd

from analysis.claims import Claim
from analysis.evidence import Evidence, changes, ends, steadiness
from analysis.studies.study import DOWNSTREAM, EDITED, KNOWN, LATE, NORM_GROWTH, OPEN, PROBE, Study, Table
from analysis.studies.weights import growth, laws_by

_WHERE = ("model", "intervention", "data.relations")


def _decayed(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio minus 1 of runs with weight decay, by optimiser."""
    decays = pd.to_numeric(evidence.setting("intervention.weight_decay"), errors="coerce") > 0
    last = evidence.last(EDITED) - 1
    return evidence.labelled(
        last[decays[last.index]], ("intervention.optimizer.kind", "intervention.weight_decay")
    )


def _undecayed(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio minus 1 of runs without weight decay, by optimiser."""
    decays = pd.to_numeric(evidence.setting("intervention.weight_decay"), errors="coerce") > 0
    last = evidence.last(EDITED) - 1
    return evidence.labelled(last[~decays[last.index]], ("intervention.optimizer.kind",))


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
    return pd.DataFrame(numbers).groupby(by).mean().reset_index()


STUDIES = (
    Study(
        name="universality",
        question="Do norms grow in every family, size, data domain and kind of training?",
        claims=(
            growth(_WHERE),
            Claim(
                says="The norms of later activations decrease.",
                source=f"{OPEN}; of edits {NORM_GROWTH}",
                told="decrease (GPT2-XL, GPT-J)",
                quantity="late activations' norm ratio minus 1 at the end",
                measure=ends(LATE, _WHERE, minus=1.0),
                side="below",
                threshold=0.0,
            ),
            Claim(
                says="Probes trained on the unedited model lose accuracy.",
                source=f"{OPEN}; of edits {NORM_GROWTH}",
                told="activations move to completely different regions",
                quantity="mean accuracy of the layer-pair probes, at the end minus at the start",
                measure=changes(PROBE, _WHERE),
                side="below",
                threshold=0.0,
            ),
            Claim(
                says="Downstream ability falls.",
                source=f"{OPEN}; of edits a digest of {NORM_GROWTH}",
                told="falls",
                quantity="mean downstream accuracy, at the end minus at the start",
                measure=changes(DOWNSTREAM, _WHERE),
                side="below",
                threshold=0.0,
            ),
        ),
        figures=(),
    ),
    Study(
        name="cross_architecture",
        question="Do the same editors make the norm grow in the same way in every architecture?",
        claims=(
            growth(("model", "editor")),
            Claim(
                says="The norm grows with every update.",
                source=f"{NORM_GROWTH}, abstract",
                told="every update (GPT2-XL, GPT-J)",
                quantity="share of updates after which the stacked norm is larger than before",
                measure=steadiness(EDITED, ("model", "editor")),
                side="above",
                threshold=0.999,
            ),
            Claim(
                says="Never-edited facts are lost.",
                source=OPEN,
                told="–",
                quantity="share of never-edited facts still known, at the end minus at the start",
                measure=changes(KNOWN, ("model", "editor")),
                side="below",
                threshold=0.0,
            ),
        ),
        figures=("norms", "known"),
        series=("model", "editor"),
        tables=(laws_by(("model", "editor")),),
    ),
    Study(
        name="optimizer_sweep",
        question="Is it AdamW that makes norms grow, and does weight decay stop it?",
        claims=(
            Claim(
                says="Norms grow under every optimiser.",
                source=f"{NORM_GROWTH}, abstract",
                told="always",
                quantity="‖W‖ / ‖W₀‖ − 1 at the end, without weight decay",
                measure=_undecayed,
                side="above",
                threshold=0.0,
            ),
            Claim(
                says="They grow in spite of weight decay.",
                source=OPEN,
                told="–",
                quantity="‖W‖ / ‖W₀‖ − 1 at the end, with weight decay",
                measure=_decayed,
                side="above",
                threshold=0.0,
            ),
        ),
        figures=("training", "loss"),
        series=("intervention.optimizer.kind", "intervention.weight_decay"),
        tables=(Table(title="At the end, by optimiser and weight decay", build=_optimisers),),
    ),
)
