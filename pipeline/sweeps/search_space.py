"""What a search may choose from: a distribution of Optuna by the key that it is of."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
)
from optuna.trial import Trial

Space = Mapping[str, BaseDistribution]


def suggested(trial: Trial, space: Space) -> dict[str, Any]:
    """The values of a trial, as the plugin asks for them."""
    return {name: trial._suggest(name, distribution) for name, distribution in space.items()}


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """The values as on the command line."""
    return [f"{key}={value}" for key, value in values.items()]


def any_of(distribution: BaseDistribution) -> Any:
    """A value that may be drawn."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # pyright: ignore[reportAttributeAccessIssue]


def compatible(old: Space, new: Space) -> bool:
    """Whether trials that were drawn from the one may be drawn from the other; of the same keys."""
    try:
        for name in old:
            check_distribution_compatibility(old[name], new[name])
    except ValueError:
        return False
    return True
