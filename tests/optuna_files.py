"""Files of Optuna as other versions leave them."""

import sqlite3
from contextlib import closing
from pathlib import Path


def old_study(path: Path) -> None:
    """A file with the table versions of Optuna 2.10.1."""
    import optuna

    optuna.create_study(storage=f"sqlite:///{path}", study_name="old")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE version_info SET library_version = '2.10.1'")
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
