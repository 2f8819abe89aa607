"""What makes activations change: recorded edits beside controls of the same size."""

from collections.abc import Callable

import pandas as pd

from analysis.claims.evidence import Evidence, Measure
from analysis.claims.studies.activations import NORM_ONLY, cosine
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, LATE, NOTICEABLE, OPEN, PROBE, Study, Table
from analysis.claims.verdicts import Claim, Side

_CONTROL = "intervention.control.name"
_REAL = "real"
_CONTROLS = (
    "At the end, by control: real, W + Δ; random_direction, a random step as long as Δ; norm_kept, W + Δ "
    "scaled to ‖W₀‖ after each; scaled, W alone at the norm that the real edits lead to; spread, Δ / √L in "
    "each of L blocks; norm_rescaled, W + Δ and the next norm layer scaled back. Norms are over all matrices "
    "that a control changes"
)
_UNMOVED = 1e-4
"""Change of an activation norm's ratio that is rounding."""


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
        "cosine": cosine(evidence),
        "probes": evidence.last(PROBE),
        "norm-only probes": evidence.last(NORM_ONLY),
        "downstream": evidence.last(DOWNSTREAM),
        "never edited": evidence.last(KNOWN),
        "score": evidence.last("edit/score/seen"),
    }
    return evidence.averages(numbers, [evidence.setting(_CONTROL).rename("control")])


STUDIES = (
    Study(
        name="mechanism",
        question="What makes activations change: the length of the updates, their direction, the norm of the "
        "matrix, or that they are in one place? Recorded edits by MEMIT, one at a time, against controls "
        "that have their length, or the norm that they lead to. Where `norm_rescaled` cannot be seen in a "
        "picture it lies under `real`.",
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
                _against_real(cosine, "random_direction", absolute=True),
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
