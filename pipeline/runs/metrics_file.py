"""`metrics.jsonl` of a run while it is computed."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editors.errors import DataError


class MetricsFile:
    """The rows that this process has written, after those of the attempt that it continues."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: dict[str, float] = {}
        """The last value of every metric."""
        self._size = 0

    def resume(self, size: int, last: Mapping[str, float]) -> None:
        """Continue after the first `size` bytes, whose last values are `last`."""
        with self.path.open("r+b") as file:
            file.truncate(size)
        self._size, self.last = size, dict(last)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; on return the whole row is on the disk, on an error none of it.

        A diverged number is written as `NaN` or `Infinity`, which Python reads but strict JSON forbids.

        Raises:
            DataError: if something else has changed the file.
        """
        line = f"{json.dumps(dict(row), default=float)}\n".encode()
        with self.path.open("ab", buffering=0) as file:
            if (before := file.tell()) != self._size:
                raise DataError(
                    f"{self.path} was changed by something else while the run was computed: it has {before} "
                    f"bytes, but {self._size} were written; give the same command again"
                )
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
                os.fsync(file.fileno())
            except OSError:
                os.truncate(file.fileno(), before)
                raise
        self._size += len(line)
        self.last |= {key: float(value) for key, value in row.items() if "/" in key}
