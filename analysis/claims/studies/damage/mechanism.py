"""Study of why activations change: recorded edits beside controls of the same size."""

import pandas as pd

from analysis.claims.evidence import Evidence, Measure, Values, change, last
from analysis.claims.studies.activations import NORM_ONLY, cosine
from analysis.claims.studies.damage import law
from analysis.claims.study import DOWNSTREAM, EDITED, KNOWN, LATE, PROBE, Study, Table, falls, rises

_CONTROL = law.CONTROL
_REAL = "real"
_CONTROLS = (
    "At the end, by control: real, W + Δ; random_direction, a random step as long as Δ, and "
    "whitened_direction, such a step where keys are rare; norm_kept, W + Δ scaled to ‖W₀‖ after each; "
    "drift_kept, W₀ and the sum of the edits cut to a tenth of its length; scaled, W alone at the norm that "
    "the real edits lead to, and grow_all, every block at that norm; rotated, W turned at random by as "
    "much, so that its norm and singular values stay; spread, Δ / √L in each of L blocks; norm_rescaled, W "
    "+ Δ and the next norm layer scaled back. Norms are over all matrices that a control changes"
)
_UNMOVED = 1e-4
"""Changes of an activation's norm ratio up to this size are rounding."""


def _of(control: str, values: Values) -> Measure:
    """A number of the runs of one control."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        numbers = values(evidence)
        has_control = evidence.setting(_CONTROL) == control
        return evidence.repeats(numbers[has_control[numbers.index]], (_CONTROL,))

    return measure


def _against_real(values: Values, control: str, *, absolute: bool = False) -> Measure:
    """A number of a control minus that of the real edits of the same recorded run."""

    def measure(evidence: Evidence) -> pd.DataFrame:
        factor = evidence.setting(_CONTROL).map({control: True, _REAL: False})
        differences = evidence.contrast(values(evidence), factor, within=("seed", "model"))
        return evidence.repeats(differences.abs() if absolute else differences, (_CONTROL,))

    return measure


def _rescaled(evidence: Evidence) -> pd.DataFrame:
    """Probes' accuracy with the next norm layer rescaled minus that under the real edits alone.

    Empty if rescaling changes no activation: an intervention without effect is no evidence.
    """
    norms = _against_real(last(LATE), "norm_rescaled", absolute=True)(evidence)
    accuracies = _against_real(last(PROBE), "norm_rescaled")(evidence)
    return accuracies if (norms["value"] > _UNMOVED).any() else accuracies.iloc[:0]


def _controls(evidence: Evidence) -> pd.DataFrame:
    """One row per control: means over the recorded runs."""
    numbers = {
        "‖W‖ / ‖W₀‖": evidence.last(EDITED),
        "functional drift": evidence.last(law.FUNCTIONAL),
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
        "that have their length, or the norm that they lead to. If `norm_rescaled` is not visible in a "
        "picture, it lies under `real`.",
        claims=(
            falls(
                "Norm growth alone, W scaled as a whole, lowers later activations.",
                "late activations' norm ratio minus 1 where W is scaled to the real edits' norm",
                _of("scaled", last(LATE, minus=1.0)),
            ),
            falls(
                "Norm growth alone, W scaled as a whole, breaks the probes.",
                "probes' accuracy where W is scaled, minus that of the unedited model",
                _of("scaled", change(PROBE)),
                threshold=-0.1,
            ),
            falls(
                "At the same norm the real edits cost less ability than W scaled as a whole.",
                "downstream accuracy where W is scaled minus under the real edits",
                _against_real(last(DOWNSTREAM), "scaled"),
            ),
            falls(
                "A random direction of the same length turns activations as far as the real one does.",
                "|cosine between edited and unedited activations under random updates − under the real "
                "ones|, mean over blocks from the first edited one on",
                _against_real(cosine, "random_direction", absolute=True),
                threshold=0.05,
            ),
            rises(
                "A random direction of the same length costs less ability than the real one.",
                "downstream accuracy under random updates minus under the real ones",
                _against_real(last(DOWNSTREAM), "random_direction"),
            ),
            rises(
                "Scaling W back to its unedited norm after every real update saves ability.",
                "downstream accuracy with the scaling, which shrinks the unedited part of W too, minus under "
                "the real edits",
                _against_real(last(DOWNSTREAM), "norm_kept"),
            ),
            rises(
                "Writing the same matrices into all blocks, at the same length together, costs less ability.",
                "downstream accuracy of the spread updates minus under the real ones",
                _against_real(last(DOWNSTREAM), "spread"),
            ),
            rises(
                "Rescaling the next norm layer gives the probes back.",
                "probes' accuracy after rescaling minus under the real edits alone, where rescaling changes "
                "any activation: a layer norm leaves little to rescale",
                _rescaled,
            ),
            *law.CLAIMS,
        ),
        threats=(
            "All controls replay the same sequence of edits of a seed, so that their points depend on each "
            "other.",
            "The rising curves are fitted to the points that they explain.",
        ),
        figures=("activations", "probes", "ability"),
        series=(_CONTROL,),
        tables=(Table(title=_CONTROLS, build=_controls), *law.TABLES),
        drawings=law.DRAWINGS,
    ),
)
