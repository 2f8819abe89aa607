"""The tables of a run, such as `records.parquet`, as rows of plain values."""

from collections.abc import Mapping
from pathlib import Path

from editors.errors import DataError


def read_table(path: Path) -> list[Mapping[str, object]]:
    """The rows of a Parquet file; what pandas noted in it, which may be about other columns, is ignored.

    Raises:
        DataError: why the file cannot be read, as the end of a sentence about it.
    """
    import pyarrow as pa  # here, because they take half a second
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError("is not a file")
    try:
        table = pq.ParquetFile(path).read().replace_schema_metadata(None)
        if len(set(table.column_names)) < table.num_columns:
            raise DataError("has two columns of the same name")
        rows = table.to_pandas().to_dict("records")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot be read ({type(error).__name__})") from error
    return [{str(key): cell for key, cell in row.items()} for row in rows]
