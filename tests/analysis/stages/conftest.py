"""Files of rows for downstream tasks."""

from pathlib import Path

import pytest

from tests.analysis.task_files import write_glue


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    return write_glue(tmp_path)
