"""The errors a person is meant to read: one sentence that names the value and the way out."""


class NormscopeError(Exception):
    """Base of all errors that are shown without a traceback."""


class ConfigError(NormscopeError):
    """The configuration asks for something that cannot be."""


class DataError(NormscopeError):
    """A data set, a fact or a text cannot be used as it is."""


class ModelError(NormscopeError):
    """A checkpoint or tokenizer cannot be loaded or is of a kind that is not supported."""


class NumericsError(NormscopeError):
    """A computation produced NaN or Inf, or a system that cannot be solved."""
