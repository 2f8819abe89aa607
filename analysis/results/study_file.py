"""Opens the file that holds a search of Optuna; Optuna is an extra, and imported when this is called."""

import re
from typing import TYPE_CHECKING, Any

from editors.errors import DataError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


def open_storage(url: str, *, read_only: bool = False) -> "RDBStorage":
    """The storage at an SQLAlchemy URL; unless it is only read, tables that are missing are created.

    Raises:
        ImportError: if Optuna is not installed.
        DataError: for a file that another version of Optuna wrote, or that is no database.
    """
    import optuna

    options: dict[str, Any] = {"skip_table_creation": read_only}
    try:
        return optuna.storages.RDBStorage(url, **options)
    except RuntimeError as error:  # Optuna compares the version of the tables with its own
        writer = re.search(r"set up by optuna ([\w.]+)\)", str(error))
        raise DataError(
            f"{url} holds a search by Optuna {writer[1] if writer else 'of another version'}, which Optuna "
            f"{optuna.__version__} cannot read: choose another name=… for a new search, or delete that file"
        ) from error
    except Exception as error:  # whatever a torn or foreign file makes SQLAlchemy raise
        cause = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"the search in {url} cannot be opened ({type(error).__name__}: {cause}): move that file away "
            "for a new search, which finds the finished runs, or choose another name=…"
        ) from error
