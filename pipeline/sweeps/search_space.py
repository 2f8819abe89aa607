"""The space of a search: a distribution of Optuna for every key with several values.

`choice(a, b)` and `a,b` are categorical; `range(1, 9)` and `int(interval(1, 9))` are integers, both ends
included; `interval(0, 1)` and `range(0.0, 1.0, 0.1)` are floats; `tag(log, interval(1, 1e4))` is uniform in
the logarithm.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from editors.errors import ConfigError

Space = Mapping[str, BaseDistribution]


def split(overrides: Sequence[Override]) -> tuple[Space, list[str]]:
    """The distribution of each key with several values, and the overrides with one value, unchanged.

    Of two overrides of the same key the later one holds.

    Raises:
        ConfigError: if no distribution describes the values.
    """
    last = {override.get_key_element(): override for override in overrides}
    space = {key: distribution_of(each) for key, each in last.items() if each.is_sweep_override()}
    return space, [str(each.input_line) for key, each in last.items() if key not in space]


def parsed(argument: str) -> BaseDistribution:
    """The distribution of an argument with several values; raises ConfigError if there is none."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise ConfigError(f"{argument} cannot be searched: {str(error).splitlines()[0]}") from error
    return distribution_of(override)


def distribution_of(override: Override) -> BaseDistribution:
    """The distribution of an override with several values; raises ConfigError if there is none."""
    sweep: Any = override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    if tags - {"log"} or (tags and not override.is_interval_sweep()):
        raise ConfigError(f"{override.input_line} cannot be searched: the only tag is tag(log, interval(…))")
    try:
        if override.is_interval_sweep():
            return _numbers(sweep.start, sweep.end, log=bool(tags))
        if override.is_range_sweep() and not sweep.shuffle:
            return _numbers(sweep.start, sweep.stop, step=sweep.step)
        choices: list[Any] = [*override.sweep_iterator(transformer=_choice)]
        return CategoricalDistribution(choices)
    except ValueError as error:
        raise ConfigError(f"{override.input_line} cannot be searched: {error}") from error


def _numbers(low: float, high: float, *, log: bool = False, step: float | None = None) -> BaseDistribution:
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _choice(value: Any) -> Any:
    """Numbers unchanged; everything else, also lists and null, as an override spells it."""
    return value if isinstance(value, int | float) else Transformer.str(value)


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """The values as on the command line."""
    return [f"{key}={value}" for key, value in values.items()]


def any_of(distribution: BaseDistribution) -> Any:
    """A value of the distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # pyright: ignore[reportAttributeAccessIssue]


def holds(distribution: BaseDistribution, value: object) -> bool:
    """Whether the distribution can give the value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    low, high, step = (getattr(distribution, name) for name in ("low", "high", "step"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return False
    return step is None or math.isclose((value - low) / step, round((value - low) / step), abs_tol=1e-8)


def is_compatible(old: Space, new: Space) -> bool:
    """Whether trials drawn from `old` can be compared with trials drawn from `new`: ranges may differ."""
    return old.keys() == new.keys() and all(_is_alike(old[key], new[key]) for key in old)


def _is_alike(old: BaseDistribution, new: BaseDistribution) -> bool:
    if isinstance(old, CategoricalDistribution):
        return old == new
    return type(old) is type(new) and getattr(old, "log", None) == getattr(new, "log", None)
