"""Errors for users: one sentence that names the offending value and the way out."""


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


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a final full stop; its class if it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
