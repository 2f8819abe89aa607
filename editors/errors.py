"""Errors for users: one sentence that names the offending value and the way out."""

from collections.abc import Sequence


class NormscopeError(Exception):
    """Base of all errors that are shown without a traceback."""

    def __str__(self) -> str:
        """The message without control characters, which names and values of others may hold."""
        return "".join(
            letter if letter.isprintable() or letter == "\n" else " " for letter in super().__str__()
        )


class ConfigError(NormscopeError):
    """The configuration asks for something impossible."""


class DataError(NormscopeError):
    """A data set, a fact or a text cannot be used as it is."""


class ModelError(NormscopeError):
    """A checkpoint or tokenizer cannot be loaded or is of a kind that is not supported."""


class NumericsError(NormscopeError):
    """A computation produced NaN or infinity, or a system that cannot be solved."""


def check_positive(key: str, **values: int | float) -> None:
    """Raise a `ConfigError` that names the first value that is not positive, as `<key>.<name>`."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{key}.{name}={value}, but it has to be positive")


def check_not_negative(key: str, **values: int | float) -> None:
    """Raise a `ConfigError` that names the first value that is negative or NaN, as `<key>.<name>`."""
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"{key}.{name}={value}, but it cannot be negative")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of a message, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a final full stop; its class if it has none.

    A line that announces another, as it ends with a colon, is followed by that one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, KeyError):
        return f"there is no entry {lines[0]}"
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")
