"""Is a score above chance? A task that a model cannot do shows no loss of ability.

The accuracy p of n documents is compared with the lower end of its 95 % interval (Wilson 1927); the area A
under the ROC curve with that of A ± 1.96 s, where s is its standard error by Hanley and McNeil (1982). A task
of two classes has to pass both: a model that always gives the more frequent answer is often right, but its
area is one half.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The 95 % interval of a score, and the score of guessing."""

    metric: str
    value: float
    low: float
    high: float
    chance: float

    @property
    def is_above(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.low > self.chance

    def __str__(self) -> str:
        return (
            f"{self.metric} is {self.value:.3f}, with a 95 % interval of {self.low:.3f} to {self.high:.3f} "
            f"that does not lie above chance, {self.chance:.3g}"
        )


def compare_accuracy(metric: str, accuracy: float, documents: int, chance: float) -> Comparison:
    """Wilson's interval of an accuracy; that of a group is rounded to a whole number of documents."""
    interval = binomtest(round(accuracy * documents), documents).proportion_ci(CONFIDENCE, method="wilson")
    return Comparison(
        metric=metric, value=accuracy, low=float(interval.low), high=float(interval.high), chance=chance
    )


def compare_area(area: float, stderr: float) -> Comparison:
    """The normal interval of an area, which is one half by chance."""
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * stderr
    return Comparison(metric="auc", value=area, low=area - reach, high=area + reach, chance=0.5)


def roc_area(pairs: Sequence[tuple[int, float]]) -> Mapping[str, float]:
    """The area `auc` under the ROC curve of pairs (class 0 or 1, score), and its standard error `auc_stderr`.

    With A the area, n₁ and n₀ documents of the classes, Q₁ = A / (2 − A) and Q₂ = 2A² / (1 + A):

        s² = (A (1 − A) + (n₁ − 1)(Q₁ − A²) + (n₀ − 1)(Q₂ − A²)) / (n₁ n₀)

    Empty if there are documents of one class only. A score that is NaN counts as the most wrong one.
    """
    classes = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs])
    scores = np.where(np.isnan(scores), np.where(classes == 1, -np.inf, np.inf), scores)
    positive, negative = int((classes == 1).sum()), int((classes == 0).sum())
    if not positive or not negative:
        return {}
    # ranks, because sklearn refuses infinite scores
    ranks = np.unique(scores, return_inverse=True)[1]
    area = float(roc_auc_score(classes, ranks))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    square = area**2
    spread = area * (1 - area) + (positive - 1) * (first - square) + (negative - 1) * (second - square)
    return {"auc": area, "auc_stderr": math.sqrt(max(spread, 0.0) / (positive * negative))}
