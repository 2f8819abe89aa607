"""All experiments, in the order of the page of results."""

from analysis.claims.studies import activations, encore, history, layers, mitigation, scope, weights
from analysis.claims.studies.damage import alarms, collapse, mechanism, threshold
from analysis.claims.study import Study

STUDIES: tuple[Study, ...] = (
    *collapse.STUDIES,
    *weights.STUDIES,
    *activations.STUDIES,
    *mechanism.STUDIES,
    *encore.STUDIES,
    *mitigation.STUDIES,
    *history.STUDIES,
    *scope.STUDIES,
    *alarms.STUDIES,
    *threshold.STUDIES,
    *layers.STUDIES,
)
"""One study per file of `conf/experiment` that tests claims."""
