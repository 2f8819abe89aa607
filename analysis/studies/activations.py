"""Experiments about what stands inside an edited model: norms, subspaces, and what changes them."""

from collections.abc import Callable

import pandas as pd

from analysis.claims import Claim, Side
from analysis.evidence import Evidence, Measure, changes, ends, final
from analysis.studies.study import (
    DOWNSTREAM,
    EDITED,
    ENCORE,
    KNOWN,
    LATE,
    NORM_GROWTH,
    NOTICEABLE,
    OPEN,
    PROBE,
    Study,
    Table,
)

_CONTROL = "intervention.control.name"
_REAL = "real"
_CONTROLS = (
    "At the end, by control: real, W + Δ; random_direction, a random step as long as Δ; norm_kept, W + Δ "
    "scaled to ‖W₀‖ after each; scaled, W alone at the norm that the real edits lead to; spread, Δ / √L in "
    "each of L blocks; norm_rescaled, W + Δ and the next norm layer scaled back. Norms are over all matrices "
    "that a control changes"
)
_NORM_ONLY = "probe/norm_only/mean"
_CHANCE = 0.5
_UNMOVED = 1e-4
"""Change of an activation norm's ratio that is rounding."""
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


def _cosine(evidence: Evidence) -> pd.Series:
    """Mean cosine with the unedited activations over blocks at and after the first edited one, at the end."""
    return _after_edit(evidence, "activation/cosine")


def _after_edit(evidence: Evidence, quantity: str) -> pd.Series:
    """Mean over blocks at and after the first edited one of what is measured there last, by run."""
    rows = evidence.having(quantity, r"block\.(?P<layer>\d+)")
    first = _edited_blocks(evidence).groupby("run")["layer"].min()
    after = rows[rows["layer"] >= rows["run"].map(first)]
    return final(after, ["run", "layer"]).groupby("run").agg(lambda each: each.mean(skipna=False))


def _beyond_norm(evidence: Evidence) -> pd.DataFrame:
    """Share of what probes know beyond chance that they lose, minus the same of probes that see the norm."""
    lost = {key: -evidence.change(key) / (evidence.first(key) - _CHANCE) for key in (PROBE, _NORM_ONLY)}
    return evidence.labelled(lost[PROBE] - lost[_NORM_ONLY])


def _of(control: str, values: Callable[[Evidence], pd.Series]) -> Measure:
    """A number of the runs of one control."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        found = values(evidence)
        is_it = evidence.setting(_CONTROL) == control
        return evidence.labelled(found[is_it[found.index]], (_CONTROL,))

    return measure


def _against_real(
    values: Callable[[Evidence], pd.Series], control: str, *, absolute: bool = False
) -> Measure:
    """A number of a control minus that of the real edits, of the same recorded run."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        factor = evidence.setting(_CONTROL).map({control: True, _REAL: False})
        found = evidence.contrast(values(evidence), factor, within=("seed", "model"))
        return evidence.labelled(found.abs() if absolute else found, (_CONTROL,))

    return measure


def _rescaled(evidence: Evidence) -> pd.DataFrame:
    """Probes' accuracy with the next norm layer rescaled minus that under the real edits alone.

    Nothing where no activation is changed by it: an intervention that does nothing answers nothing.
    """
    norms = _against_real(lambda evidence: evidence.last(LATE), "norm_rescaled", absolute=True)(evidence)
    found = _against_real(lambda evidence: evidence.last(PROBE), "norm_rescaled")(evidence)
    return found if (norms["value"] > _UNMOVED).any() else found.iloc[:0]


def _question(
    says: str, quantity: str, measure: Measure, side: Side = "above", threshold: float = 0.0
) -> Claim:
    return Claim(
        says=says,
        source=OPEN,
        told="–",
        quantity=quantity,
        measure=measure,
        side=side,
        threshold=threshold,
        least=NOTICEABLE,
    )


def _controls(evidence: Evidence) -> pd.DataFrame:
    """A row per control, means over the recorded runs."""
    numbers = {
        "‖W‖ / ‖W₀‖": evidence.last(EDITED),
        "late activations": evidence.last(LATE),
        "cosine": _cosine(evidence),
        "probes": evidence.last(PROBE),
        "norm-only probes": evidence.last(_NORM_ONLY),
        "downstream": evidence.last(DOWNSTREAM),
        "never edited": evidence.last(KNOWN),
        "score": evidence.last("edit/score/seen"),
    }
    return evidence.averages(numbers, [evidence.setting(_CONTROL).rename("control")])


STUDIES = (
    Study(
        name="activation_norms",
        question="How do activation norms change by block after 100, 500 and 2,000 edits, absolutely and as "
        "shares of the residual stream? Claims are judged on a text that names no edited subject.",
        claims=(
            Claim(
                says="The norms of intermediate activations decrease: in the last third of the blocks.",
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
                says="The norms of intermediate activations decrease: from the first edited block on.",
                source=f"{NORM_GROWTH}, abstract",
                told="decrease",
                quantity="the same, mean over all blocks from the first edited one on",
                measure=_stream,
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
            ),
            Claim(
                says="Activations lie in completely different regions.",
                source=f"{NORM_GROWTH}, abstract",
                told="completely different",
                quantity="mean accuracy of the layer-pair probes at the end; 0.5 is chance",
                measure=ends(PROBE),
                side="below",
                threshold=0.6,
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
                measure=lambda evidence: evidence.labelled(_cosine(evidence)),
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
            ),
        ),
        figures=("probes", "probe_matrix", "activations"),
    ),
    Study(
        name="mechanism",
        question="What makes activations change: the length of the updates, their direction, the norm of the "
        "matrix, or that they are in one place? Recorded edits by MEMIT, one at a time, against controls of "
        "the same length.",
        claims=(
            _question(
                "Norm growth alone, W scaled as a whole, lowers later activations.",
                "late activations' norm ratio minus 1 where W is scaled to the real edits' norm",
                _of("scaled", lambda evidence: evidence.last(LATE) - 1),
                "below",
            ),
            _question(
                "Norm growth alone, W scaled as a whole, breaks the probes.",
                "probes' accuracy where W is scaled, minus that of the unedited model",
                _of("scaled", lambda evidence: evidence.change(PROBE)),
                "below",
                -0.1,
            ),
            _question(
                "At the same norm the real edits cost less ability than W scaled as a whole.",
                "downstream accuracy where W is scaled minus under the real edits",
                _against_real(lambda evidence: evidence.last(DOWNSTREAM), "scaled"),
                "below",
            ),
            _question(
                "A random direction of the same length turns activations as far as the real one does.",
                "|cosine between edited and unedited activations under random updates − under the real "
                "ones|, mean over blocks from the first edited one on",
                _against_real(_cosine, "random_direction", absolute=True),
                "below",
                0.05,
            ),
            _question(
                "A random direction of the same length costs less ability than the real one.",
                "downstream accuracy under random updates minus under the real ones",
                _against_real(lambda evidence: evidence.last(DOWNSTREAM), "random_direction"),
            ),
            _question(
                "Scaling W back to its unedited norm after every real update saves ability.",
                "downstream accuracy with the scaling, which shrinks the unedited part of W too, minus under "
                "the real edits",
                _against_real(lambda evidence: evidence.last(DOWNSTREAM), "norm_kept"),
            ),
            _question(
                "Writing the same matrices into all blocks, at the same length together, costs less ability.",
                "downstream accuracy of the spread updates minus under the real ones",
                _against_real(lambda evidence: evidence.last(DOWNSTREAM), "spread"),
            ),
            _question(
                "Rescaling the next norm layer gives the probes back.",
                "probes' accuracy after rescaling minus under the real edits alone, where rescaling changes "
                "any activation: a layer norm leaves little to rescale",
                _rescaled,
            ),
        ),
        figures=("activations", "probes", "ability"),
        series=(_CONTROL,),
        tables=(Table(title=_CONTROLS, build=_controls),),
    ),
)
