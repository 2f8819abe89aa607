"""Experiments about what stands inside an edited model: norms and subspaces of activations."""

import pandas as pd

from analysis.claims.evidence import Evidence, changes, ends, final
from analysis.claims.study import ENCORE, LATE, NORM_GROWTH, NOTICEABLE, NOTICEABLE_ALONE, PROBE, Study
from analysis.claims.verdicts import Claim

NORM_ONLY = "probe/norm_only/mean"
_CHANCE = 0.5
_SUMMARY = f"a summary of {NORM_GROWTH} (second-hand)"


def _edited_blocks(evidence: Evidence) -> pd.DataFrame:
    """Columns run and layer: the blocks that a run edited."""
    rows = evidence.having("norm/delta", r"[a-z_]+\.(?P<layer>\d+)")
    return rows[["run", "layer"]].drop_duplicates()


def _share_of_edited(evidence: Evidence) -> pd.DataFrame:
    """Growth of the edited blocks' MLP share in the residual stream, summed over them."""
    rows = evidence.having("activation/share", r"mlp\.(?P<layer>\d+)").merge(_edited_blocks(evidence))
    sums = rows.groupby(["run", "count"])["value"].agg(lambda each: each.sum(skipna=False)).reset_index()
    return evidence.labelled(final(sums, ["run"]) - sums.drop_duplicates("run").set_index("run")["value"])


def _stream(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio of the residual stream minus 1, mean over blocks at and after the first edited one."""
    return evidence.labelled(_after_edit(evidence, "activation/norm_ratio") - 1)


def cosine(evidence: Evidence) -> pd.Series:
    """Mean cosine with the unedited activations over blocks at and after the first edited one, at the end."""
    return _after_edit(evidence, "activation/cosine")


def _later_mlps(evidence: Evidence) -> pd.DataFrame:
    """Norm ratio of the MLPs' outputs minus 1, mean over blocks after the first edited one."""
    return evidence.labelled(_after_edit(evidence, "activation/norm_ratio", "mlp", skip=1) - 1)


def _after_edit(evidence: Evidence, quantity: str, part: str = "block", skip: int = 0) -> pd.Series:
    """Mean over blocks from the first edited one on, or so many later, of what is measured last, by run."""
    rows = evidence.having(quantity, rf"{part}\.(?P<layer>\d+)").astype({"layer": int})
    first = _edited_blocks(evidence).astype({"layer": int}).groupby("run")["layer"].min()
    after = rows[rows["layer"] >= pd.to_numeric(rows["run"].map(first)) + skip]
    return final(after, ["run", "layer"]).groupby("run").agg(lambda each: each.mean(skipna=False))


def _beyond_norm(evidence: Evidence) -> pd.DataFrame:
    """Share of what probes know beyond chance that they lose, minus the same of probes that see the norm."""
    lost = {key: -evidence.change(key) / (evidence.first(key) - _CHANCE) for key in (PROBE, NORM_ONLY)}
    return evidence.labelled(lost[PROBE] - lost[NORM_ONLY])


STUDIES = (
    Study(
        name="activation_norms",
        question="How do activation norms change by block after 100, 500 and 2,000 edits, absolutely and as "
        "shares of the residual stream? Claims are judged on a text that names no edited subject.",
        claims=(
            Claim(
                says="The norms of activations decrease: the residual stream in the last third.",
                source=f"{NORM_GROWTH}, abstract",
                told="decrease",
                quantity="mean norm of the residual stream over the blocks of the last third (here the last "
                "one), over the unedited one, minus 1, at the end",
                measure=ends(LATE, minus=1.0),
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
            Claim(
                says="The norms of activations decrease: the residual stream from the first edited block on.",
                source=f"{NORM_GROWTH}, abstract",
                told="decrease",
                quantity="the same, mean over all blocks from the first edited one on",
                measure=_stream,
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
            Claim(
                says="The norms of activations decrease: what MLPs after the edited block write.",
                source=f"{NORM_GROWTH}, abstract",
                told="decrease",
                quantity="mean norm of the MLPs' outputs over the unedited one, minus 1, at the end, mean "
                "over the blocks after the first edited one",
                measure=_later_mlps,
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
            Claim(
                says="The edited blocks take a growing share of the residual stream.",
                source=f"{ENCORE}, figure 5",
                told="grows",
                quantity="share of the edited blocks' MLP outputs among all contributions, at the end minus "
                "at the start",
                measure=_share_of_edited,
                side="above",
                threshold=0.0,
            ),
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
            Claim(
                says="Probes trained on the unedited model lose accuracy on the edited one.",
                source=f"{NORM_GROWTH}, abstract",
                told="the subspace of activations shifts",
                quantity="mean accuracy of the layer-pair probes, at the end minus at the start",
                measure=changes(PROBE),
                side="below",
                threshold=0.0,
                least=NOTICEABLE,
            ),
            Claim(
                says="Activations lie in completely different regions.",
                source=f"{NORM_GROWTH}, abstract",
                told="completely different",
                quantity="mean accuracy of the layer-pair probes at the end; 0.5 is chance",
                measure=ends(PROBE),
                side="below",
                threshold=0.6,
                alone=NOTICEABLE_ALONE,
            ),
            Claim(
                says="Probes lose a larger share of what they know than those that see the norm alone.",
                source=_SUMMARY,
                told="orientation becomes misaligned",
                quantity="share of their accuracy beyond chance that the probes lose, minus the share that "
                "probes lose which see the norm alone",
                measure=_beyond_norm,
                side="above",
                threshold=0.0,
            ),
            Claim(
                says="The orientation of activations turns away from the unedited model's.",
                source=_SUMMARY,
                told="orientation becomes misaligned",
                quantity="mean cosine between edited and unedited vectors of a token, blocks at and after "
                "the first edited one",
                measure=lambda evidence: evidence.labelled(cosine(evidence)),
                side="below",
                threshold=0.9,
            ),
            Claim(
                says="A probe can tell edited from unedited activations of the same block.",
                source=f"{NORM_GROWTH}, abstract",
                told="completely different regions",
                quantity="mean accuracy of direct probes at the end; 0.5 is chance",
                measure=ends("probe/direct/mean"),
                side="above",
                threshold=0.75,
                alone=NOTICEABLE_ALONE,
            ),
        ),
        figures=("probes", "probe_matrix", "activations"),
    ),
)
