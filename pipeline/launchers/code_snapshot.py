"""A copy of the code beside the runs, so that later edits do not change jobs that wait in a queue."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from editors.disk import PART
from pipeline.paths import PACKAGE, ROOT
from pipeline.runs.provenance import GIT, git_state

FOLDERS = ("analysis", "conf", "editors", "pipeline")
"""Folders of the project that a run needs."""


def snapshot(folder: Path) -> Path:
    """Copy the code and its configuration to `<folder>/<digest of their content>`; returns the copy.

    The copy is complete or absent, and the same code is copied once. A file in it holds the commit.
    """
    commit = json.dumps(git_state(PACKAGE))
    sources = {path.relative_to(ROOT): path for name in FOLDERS for path in _files(ROOT / name)}
    digest = hashlib.sha256(commit.encode())
    for name, path in sorted(sources.items()):
        content = path.read_bytes()
        digest.update(f"\n{name} {len(content)}\n".encode() + content)
    copy = folder.resolve() / digest.hexdigest()[:10]
    if copy.is_dir():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PART) as part:
        new = Path(part) / "code"
        for name, path in sources.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / name)
        (new / "pipeline" / GIT).write_text(commit, encoding="utf-8")
        try:
            new.rename(copy)
        except OSError:
            if not copy.is_dir():  # otherwise another sweep has copied it meanwhile
                raise
    return copy


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
