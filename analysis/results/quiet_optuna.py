"""Optuna without what it and SQLAlchemy have to tell their developers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Import Optuna, and use it, without notices; raises ImportError where it is not installed."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # the Optuna of Hydra's plugin is older than SQLAlchemy 2, and works with 1.4
        warnings.filterwarnings("ignore", message=r"(?s).*SQLAlchemy 2\.0")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"optuna\.")
        import optuna
        from optuna.exceptions import ExperimentalWarning

        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        yield
