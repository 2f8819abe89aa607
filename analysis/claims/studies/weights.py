"""Studies of the norms of weights: training, editing, blocks, the first baseline."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from analysis.claims.evidence import SEQUENCE, Evidence, Measure, last_values, steadiness
from analysis.claims.studies.difficulty import DIFFICULTY
from analysis.claims.studies.growth import LAWFUL, every_update, growth, laws_by
from analysis.claims.study import EDITED, NORM_GROWTH, Study, Table
from analysis.claims.verdicts import Claim, Side
from analysis.statistics.growth_laws import fit_growth_laws

_SITE = r"(?P<site>[a-z_]+)\.(?P<layer>\d{1,3})"
TRAINING = (
    "intervention.optimizer.kind",
    "intervention.weight_decay",
    "intervention",
)
KINDS = {"cpt": "continual pretraining", "fft": "full fine-tuning", "lora": "LoRA"}
"""Kinds of training of which the source claims that norms grow."""
SEQUENTIAL = ("memit", "rect", "alphaedit")
"""Editors whose growth arXiv 2602.02543 describes, without PRUNE, which here compresses only at the end."""


def _matrices(evidence: Evidence) -> pd.DataFrame:
    """Last norm ratio of every matrix that changed; columns run, site, layer, value."""
    matrix = ["run", "site", "layer"]
    ratio = last_values(evidence.matching("norm/frobenius_ratio", _SITE), matrix)
    moved = last_values(evidence.matching("norm/distance", _SITE), matrix) != 0
    return ratio[moved.reindex(ratio.index, fill_value=False)].reset_index()


def _grown_share(by: Sequence[str]) -> Measure:
    def measure(evidence: Evidence) -> pd.DataFrame:
        rows = _matrices(evidence)
        return evidence.repeats((rows["value"] > 1).groupby(rows["run"]).mean(), by)

    return measure


def _by_site(evidence: Evidence) -> pd.DataFrame:
    """Share of trained matrices that grew: one row per intervention and weight decay, one column per site."""
    rows = _matrices(evidence)
    if rows.empty:
        return pd.DataFrame()
    decay = rows["run"].map(evidence.setting("intervention.weight_decay"))
    intervention = rows["run"].map(evidence.runs["intervention"])
    rows = rows.assign(grew=rows["value"] > 1, of=intervention + ", decay " + decay)
    table = rows.pivot_table(index="of", columns="site", values="grew", aggfunc="mean")
    return table.rename_axis(columns=None).reset_index(names="trained by")


def _exponential(evidence: Evidence) -> pd.DataFrame:
    """1 for a run that an exponential fits best, else 0; of runs that grew and that a law fits."""
    is_exponential = {}
    for run, rows in evidence.series(EDITED).groupby("run"):
        if evidence.runs.loc[str(run), "editor"] in SEQUENTIAL and rows["value"].iloc[-1] > 1.1:
            fitted = fit_growth_laws(rows["count"].to_numpy(), rows["value"].to_numpy())
            best = fitted.iloc[0]
            if best["explained"] > LAWFUL:
                is_exponential[run] = float(best["law"] == "exponential")
    return evidence.repeats(pd.Series(is_exponential, dtype=float))


def _over_static(editor: str) -> Measure:
    """A measure: the edited over the static norm ratio of one editor, at the last measurement of both."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        ratio = evidence.last(EDITED) / evidence.last("norm/frobenius_ratio/static")
        return evidence.repeats(evidence.of_editor(ratio, editor))

    return measure


def _grows(statement: str, editor: str, reported: str, side: Side, threshold: float) -> Claim:
    """The claim that an editor's matrices end above, or below, this multiple of their unedited norm."""
    return Claim(
        statement=statement,
        source="arXiv 2502.01636, figures 1 and 4",
        reported=f"{reported} the unedited norm after 10,000 edits, all others as they were",
        quantity="norm ratio of edited over that of static matrices, which no edit touches, at the end; the "
        "mean is geometric",
        measure=_over_static(editor),
        side=side,
        threshold=threshold,
        ratio=True,
    )


def _more_than_alphaedit(evidence: Evidence) -> pd.DataFrame:
    """MEMIT's norm ratio over that of AlphaEdit with the same seed."""
    last, editor = evidence.last(EDITED), evidence.runs["editor"]
    factor = editor.map({"memit": True, "alphaedit": False})
    within = ("seed", "model", "data", "batch_size", "edits")
    return evidence.repeats(evidence.contrast(last, factor, within=within, relative=True) + 1)


def _static_moves(evidence: Evidence) -> pd.DataFrame:
    """Largest |ratio − 1| of the matrices that no edit touched, by run."""
    rows = evidence.matching("norm/frobenius_ratio", _SITE)
    updates = evidence.matching("norm/delta", _SITE)
    edited = set(zip(updates["run"], updates["site"], updates["layer"], strict=True))
    keys = zip(rows["run"], rows["site"], rows["layer"], strict=True)
    static = rows[[key not in edited for key in keys]]
    largest = (static["value"] - 1).abs().groupby(static["run"])
    return evidence.repeats(largest.agg(lambda values: values.max(skipna=False)))


def _trained_by(kind: str, words: str) -> Claim:
    """The claim that norms grow under one kind of training."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        ratio, kinds = evidence.last(EDITED), evidence.runs["intervention"]
        return evidence.repeats(ratio[kinds.reindex(ratio.index) == kind], TRAINING)

    return replace(growth(TRAINING), statement=f"The Frobenius norm grows under {words}.", measure=measure)


STUDIES = (
    Study(
        name="norms_posttraining",
        question="Does the norm of updated matrices always grow under continual pretraining, full "
        "fine-tuning and LoRA, with weight decay and without?",
        claims=(
            *(_trained_by(kind, words) for kind, words in KINDS.items()),
            Claim(
                statement="Every updated matrix grows.",
                source=f"{NORM_GROWTH}, abstract",
                reported="always",
                quantity="share of trained matrices whose norm is larger at the end",
                measure=_grown_share(TRAINING),
                side="above",
                threshold=0.999,
                always=True,
            ),
            Claim(
                statement="The norm grows at every step.",
                source=f"{NORM_GROWTH}, abstract",
                reported="always",
                quantity="share of steps after which the stacked norm is larger than before",
                measure=steadiness(EDITED, TRAINING),
                side="above",
                threshold=0.999,
                always=True,
            ),
        ),
        figures=("training",),
        protocol=f"{NORM_GROWTH}: a Llama-2-7B under continual pretraining, full fine-tuning and LoRA "
        f"(figure 1). Data and steps are not known to us.",
        threats=(
            "Three hundred steps of a model of four blocks; real trainings have thousands and other data.",
            "One optimiser, AdamW, at one rate for each kind of training; optimizer_sweep has others.",
        ),
        series=TRAINING,
        facets=("intervention",),
        tables=(
            Table(
                title="Share of trained matrices that grew, by site, over optimisers, rates and seeds",
                build=_by_site,
            ),
        ),
    ),
    Study(
        name="norms_editing",
        question="Does the norm of the edited matrices grow with every edit, for every editor, and by which "
        "law? Each editor has its own values for this model (`conf/hparams`): `encore` is a preset with its "
        "own preservation weight, on real facts with other bounds of targets too, and not MEMIT's values "
        "with regularizers. `ft` and `ft_m` differ by what surrounds the target alone and are the same "
        "here; so are MEMIT and EMMET in batches, not one by one: EMMET's ridge times its preservation "
        "weight is MEMIT's. PRUNE's end takes nearly all edits away, which lie above the largest singular "
        "value of so small a matrix.",
        claims=(
            growth(SEQUENCE),
            every_update(SEQUENCE),
            Claim(
                statement="Growth under sequential editing is exponential.",
                source="arXiv 2602.02543",
                reported="approximately exponential (log-linear)",
                quantity="share of runs, of MEMIT, RECT and AlphaEdit, that an exponential fits better than "
                "a line and a square root do; of runs that grew by a tenth and that one of these fits well "
                "(explained > 0.95)",
                measure=_exponential,
                side="above",
                threshold=0.5,
            ),
        ),
        figures=("norms", "growth"),
        tables=(laws_by(SEQUENCE), DIFFICULTY),
    ),
    Study(
        name="norms_by_layer",
        question="How far do edited blocks leave the static ones behind, after 100, 500 and 2,000 edits?",
        claims=(
            replace(
                _grows("MEMIT's matrices grow over tenfold.", "memit", "over 10 times", "above", 10.0),
                source_value=10.0,
                null=1.0,
                source_length=10_000,
            ),
            # more than twice the source's value is no longer "about" it
            _grows("AlphaEdit's matrices grow about twofold.", "alphaedit", "about 2 times", "below", 4.0),
            Claim(
                statement="MEMIT grows more than AlphaEdit.",
                source="arXiv 2502.01636, figures 1 and 4",
                reported="over 10 times against about 2 times",
                quantity="norm ratio of MEMIT over that of AlphaEdit, at the end; the mean is geometric",
                measure=_more_than_alphaedit,
                side="above",
                threshold=1.0,
                ratio=True,
            ),
        ),
        figures=("layers", "norms"),
        at=(100, 500, 2000),
        protocol="arXiv 2502.01636: 10,000 edits of CounterFact in batches of 100 in several blocks of "
        "GPT2-XL, Llama-2-7B and Llama-3-8B (figures 1 and 4).",
        threats=(
            "One block of four is edited, and one edit of so small a matrix adds more to its norm than in "
            "large models.",
            "Batches of 100 make twenty updates of 2,000 edits.",
        ),
        tables=(laws_by(SEQUENCE),),
    ),
    Study(
        name="baseline_norms",
        question="Which of all attention and MLP matrices change in 500 edits by MEMIT, and how steadily?",
        claims=(
            growth(SEQUENCE),
            every_update(SEQUENCE),
            Claim(
                statement="Matrices that are not edited keep their norm.",
                source="by construction of the editor",
                reported="0",
                quantity="largest |‖W‖ / ‖W₀‖ − 1| of a matrix that no edit touched",
                measure=_static_moves,
                side="below",
                threshold=1e-6,
            ),
        ),
        figures=("layers", "norms", "growth"),
        at=(100, 200, 300, 400, 500),
        tables=(laws_by(SEQUENCE),),
    ),
)
