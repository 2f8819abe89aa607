"""Axes of a chart: the scale that suits the values, the ticks and the limits."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

Scale = Literal["linear", "log", "symlog"]

_BAND_SHARE = 0.4
"""A band may widen the view by this share of the lines' span a side: with two seeds it reaches very far."""

_LARGEST = 1e300
"""Largest limit of an axis, so that the differences that a drawing needs are finite."""

_STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7))
"""Ticks of a decade, few and more."""


def scale_for(values: np.ndarray) -> Scale:
    """Logarithmic if all values are positive and span more than a decade; symlog if some are not positive."""
    if not len(values):
        return "linear"
    if values.min() > 0:
        return "log" if values.max() > 10 * values.min() else "linear"
    return "symlog" if np.abs(values).max() > 10 else "linear"


def forward(values: Sequence[float] | np.ndarray, scale: Scale) -> np.ndarray:
    """Positions of values on the axis: v, log10 v, or sign(v) (1 + log10 |v|) that is linear within ±1."""
    numbers = np.asarray(values, dtype=float)
    if scale == "linear":
        return numbers
    if scale == "log":
        return np.log10(numbers)
    size = np.abs(numbers)
    return np.where(size <= 1, numbers, np.sign(numbers) * (1 + np.log10(np.maximum(size, 1))))


def inverse(places: Sequence[float] | np.ndarray, scale: Scale) -> np.ndarray:
    """The values at positions on the axis: inverse of `forward`."""
    positions = np.asarray(places, dtype=float)
    if scale == "linear":
        return positions
    if scale == "log":
        return 10**positions
    return np.where(np.abs(positions) <= 1, positions, np.sign(positions) * 10.0 ** (np.abs(positions) - 1))


def symlog_ticks(limits: tuple[float, float]) -> list[float]:
    """0 and powers of ten within the limits, about four a side at most; ±1 where no power is left out."""
    low, high = (int(place) for place in np.fix(forward(limits, "symlog")))
    step = max(1, round(max(high, -low) / 4))
    places = np.array([0, *range(step, high + 1, step), *range(-step, low - 1, -step)], dtype=float)
    return sorted(inverse(places, "symlog").tolist())


def log_ticks(limits: tuple[float, float]) -> list[float]:
    """Three plain numbers or more for a view below two decades: two do not tell that it is no linear one.

    None for a wider view, which has powers of ten.
    """
    low, high = np.log10(limits)
    if high - low >= 2:
        return []
    powers = 10.0 ** np.arange(np.floor(low), np.ceil(high) + 1)
    ticks: list[float] = []
    for steps in _STEPS if high - low < 1.5 else ((1, 3),):
        every = np.outer(powers, steps).ravel().tolist()
        ticks = [tick for tick in every if limits[0] <= tick <= limits[1]]
        if len(ticks) > 2:
            return ticks
    for bins in (4, 6, 8):
        near = MaxNLocator(bins, steps=[1, 2, 5, 10]).tick_values(*limits)
        ticks = [float(tick) for tick in near if limits[0] <= tick <= limits[1]]
        if len(ticks) > 2:
            break
    return ticks


def view(lines: np.ndarray, bands: np.ndarray, scale: Scale) -> tuple[float, float]:
    """Limits of the axis that show the lines whole and as much of the bands as does not dwarf the lines."""
    with np.errstate(over="ignore"):  # numbers near the largest one have no room above
        return _view(lines, bands, scale)


def _view(lines: np.ndarray, bands: np.ndarray, scale: Scale) -> tuple[float, float]:
    low, high = forward([lines.min(), lines.max()], scale)
    slack = _BAND_SHARE * (high - low) or 0.05 * abs(high) or 0.05
    shown = bands[bands > 0] if scale == "log" else bands
    reach_low, reach_high = forward([shown.min(), shown.max()], scale)
    low, high = max(reach_low, low - slack), min(reach_high, high + slack)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    bottom, top = np.clip(inverse([low - margin, high + margin], scale), -_LARGEST, _LARGEST)
    return float(bottom), float(top)
