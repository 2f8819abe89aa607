"""Studies of the activations of an edited model: their norms and subspaces."""

from collections.abc import Sequence

import pandas as pd

from analysis.claims.evidence import SEQUENCE, Evidence, changes, ends, last_values
from analysis.claims.study import (
    ENCORE,
    LATE,
    NORM_GROWTH,
    NOTICEABLE,
    NOTICEABLE_ALONE,
    PROBE,
    SOURCE_EDITS,
    Study,
    falls,
)
from analysis.claims.verdicts import Claim

NORM_ONLY = "probe/norm_only/mean"
_CHANCE = 0.5
_SUMMARY = f"a summary of {NORM_GROWTH} (second-hand)"


def _edited_blocks(evidence: Evidence) -> pd.DataFrame:
    """The blocks that each run edited; columns run and layer."""
    rows = evidence.matching("norm/delta", r"[a-z_]+\.(?P<layer>\d{1,3})")
    return rows[["run", "layer"]].drop_duplicates()


def share_of_edited(evidence: Evidence) -> pd.Series:
    """Growth of the edited blocks' MLP share in the residual stream, summed over them, by run."""
    rows = evidence.matching("activation/share", r"mlp\.(?P<layer>\d{1,3})").merge(_edited_blocks(evidence))
    sums = rows.groupby(["run", "count"])["value"].agg(lambda values: values.sum(skipna=False)).reset_index()
    return last_values(sums, ["run"]) - sums.drop_duplicates("run").set_index("run")["value"]


def _stream(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio of the residual stream minus 1, mean over blocks at and after the first edited one."""
    return evidence.repeats(_after_edit(evidence, "activation/norm_ratio") - 1)


def cosine(evidence: Evidence) -> pd.Series:
    """Mean cosine with the unedited activations over blocks at and after the first edited one, at the end."""
    return _after_edit(evidence, "activation/cosine")


def _later_mlps(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio of the MLPs' outputs minus 1, mean over blocks after the first edited one."""
    return evidence.repeats(_after_edit(evidence, "activation/norm_ratio", "mlp", skip=1) - 1)


def _after_edit(evidence: Evidence, quantity: str, part: str = "block", skip: int = 0) -> pd.Series:
    """Mean of the last values over the blocks from `skip` after the first edited one on, by run."""
    rows = evidence.matching(quantity, rf"{part}\.(?P<layer>\d{{1,3}})").astype({"layer": int})
    first = _edited_blocks(evidence).astype({"layer": int}).groupby("run")["layer"].min()
    after = rows[rows["layer"] >= pd.to_numeric(rows["run"].map(first)) + skip]
    return last_values(after, ["run", "layer"]).groupby("run").agg(lambda values: values.mean(skipna=False))


def _beyond_norm(evidence: Evidence) -> pd.DataFrame:
    """Share of their accuracy beyond chance that probes lose, minus the same for probes of the norm alone."""
    lost = {key: -evidence.change(key) / (evidence.first(key) - _CHANCE) for key in (PROBE, NORM_ONLY)}
    return evidence.repeats(lost[PROBE] - lost[NORM_ONLY])


def late_halves(by: Sequence[str] = SEQUENCE) -> Claim:
    """The claim that late activations lose about half of their norm."""
    return Claim(
        statement="The norms of late activations fall to about half.",
        source=f"{NORM_GROWTH}, figure 4",
        reported="about half at block 40 after 2,000 edits",
        quantity="mean norm of the residual stream over the blocks of the last third, over the unedited one, "
        "at the end",
        measure=ends(LATE, by),
        side="below",
        threshold=0.8,
        source_value=0.5,
        null=1.0,
        source_length=SOURCE_EDITS,
        smallest_effect=NOTICEABLE,
    )


def probes_fail(by: Sequence[str] = SEQUENCE) -> Claim:
    """The claim that probes trained on the unedited model fail on the edited one."""
    return Claim(
        statement="Activations move to other regions: probes trained on the unedited model fail.",
        source=f"{NORM_GROWTH}, figure 5",
        reported="below 70 %",
        quantity="mean accuracy of the layer-pair probes at the end; 0.5 is chance",
        measure=ends(PROBE, by),
        side="below",
        threshold=0.7,
        source_value=0.7,
        null=1.0,
        source_length=SOURCE_EDITS,
        smallest_effect_alone=NOTICEABLE_ALONE,
    )


STUDIES = (
    Study(
        name="activation_norms",
        question="How do activation norms change by block after 100, 500 and 2,000 edits, absolutely and as "
        "shares of the residual stream? Claims are judged on a text that names no edited subject.",
        claims=(
            late_halves(),
            falls(
                "The norms of activations decrease: the residual stream from the first edited block on.",
                "the same, mean over all blocks from the first edited one on",
                _stream,
                source=f"{NORM_GROWTH}, abstract",
                reported="decrease",
            ),
            falls(
                "The norms of activations decrease: what MLPs after the edited block write.",
                "mean norm of the MLPs' outputs over the unedited one, minus 1, at the end, mean "
                "over the blocks after the first edited one",
                _later_mlps,
                source=f"{NORM_GROWTH}, abstract",
                reported="decrease",
            ),
            Claim(
                statement="The edited blocks take a growing share of the residual stream.",
                source=f"{ENCORE}, figure 5",
                reported="grows",
                quantity="share of the edited blocks' MLP outputs among all contributions, at the end minus "
                "at the start",
                measure=lambda evidence: evidence.repeats(share_of_edited(evidence)),
                side="above",
            ),
        ),
        protocol=f"{NORM_GROWTH}: 100, 500 and 2,000 edits, norms of activations on 10,000 tokens by block "
        f"(figure 4).",
        threats=(
            "The last third of four blocks is a single block.",
            "Whether the source's means hold the first token of a text is not known: in real models its "
            "norm is a hundred times that of others.",
        ),
        figures=("activations", "shares"),
        at=(100, 500, 2000),
        same_as="norms_by_layer",
    ),
    Study(
        name="subspace_shift",
        question="Do edits move activations into other subspaces, and is that a matter of direction or of "
        "scale?",
        claims=(
            falls(
                "Probes trained on the unedited model lose accuracy on the edited one.",
                "mean accuracy of the layer-pair probes, at the end minus at the start",
                changes(PROBE),
                source=f"{NORM_GROWTH}, abstract",
                reported="the subspace of activations shifts",
            ),
            probes_fail(),
            Claim(
                statement="Probes lose a larger share of what they know than those that see the norm alone.",
                source=_SUMMARY,
                reported="orientation becomes misaligned",
                quantity="share of their accuracy beyond chance that the probes lose, minus the share that "
                "probes lose which see the norm alone",
                measure=_beyond_norm,
                side="above",
            ),
            Claim(
                statement="The orientation of activations turns away from the unedited model's.",
                source=_SUMMARY,
                reported="orientation becomes misaligned",
                quantity="mean cosine between edited and unedited vectors of a token, blocks at and after "
                "the first edited one",
                measure=lambda evidence: evidence.repeats(cosine(evidence)),
                side="below",
                threshold=0.9,
            ),
            Claim(
                statement="A probe can tell edited from unedited activations of the same block.",
                source=f"{NORM_GROWTH}, abstract",
                reported="completely different regions",
                quantity="mean accuracy of direct probes at the end; 0.5 is chance",
                measure=ends("probe/direct/mean"),
                side="above",
                threshold=0.75,
                smallest_effect_alone=NOTICEABLE_ALONE,
            ),
        ),
        protocol=f"{NORM_GROWTH}: logistic regressions that tell two blocks apart, trained on the unedited "
        f"model, after 2,000 edits (figure 5).",
        threats=(
            "A hundred edits, a twentieth of the source's; norms_by_layer has probes after 2,000.",
            "Features are standardised here, which the source does not say of its own.",
        ),
        figures=("probes", "probe_matrix", "activations"),
    ),
)
