"""Small copies of finished runs, to publish or to keep: `python -m pipeline keep RUN… out=FOLDER`.

A copy, `FOLDER/<run>`, has all that tables, figures and verdicts are drawn from: configuration, provenance,
metrics (compressed), tables, summary, and a seal of its own. It has no weights, updates or checkpoints, no
texts of facts, and not the name of the machine. Settings stay as they were given, paths among them.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from analysis.results.run_files import json_object, read_object
from analysis.results.run_folder import METRICS, PROVENANCE, RunFolder, run_folders
from analysis.results.seal import Seal, unpacked, written
from analysis.selection import RUNS, selected
from editors.errors import DataError, NormscopeError
from pipeline.paths import out_path
from pipeline.runs.layout import finished_run, warn_if_unverifiable

LEFT_OUT = frozenset({"weights.safetensors", "updates", "checkpoints", "adapter"})
"""Files and folders of a run that a copy lacks."""
_TEXTS = frozenset({"prompt", "subject", "text", "generated"})
"""Columns of tables that a copy lacks as well: those with texts of facts."""
_OF_THE_MACHINE = ("command", "host", "platform")
"""Keys of `provenance.json`."""


def main(arguments: Sequence[str]) -> str | int:
    """Copy the runs of the command line; returns an exit status, or the message of an error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline keep", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{RUNS}; all finished")
    parser.add_argument(
        "out",
        type=partial(out_path, form="FOLDER, the folder of the copies"),
        metavar="out=FOLDER",
        help="the folder of the copies",
    )
    options = parser.parse_args(arguments)
    try:
        # every run is finished before the first is copied
        for run in [finished_run(run.path) for run in run_folders(selected(*options.runs))]:
            print(keep(run, options.out))  # noqa: T201 - for scripts
    except NormscopeError as error:
        return f"error: {error}"
    except OSError as error:
        return f"error: {error.filename} cannot be written: {error.strerror}"
    return 0


def keep(run: Path, out: Path) -> Path:
    """Copy a finished run into `out`, completely or not at all; returns the folder of the copy.

    Raises:
        DataError: if the run is not finished, a file of it was changed, or the copy exists already.
    """
    run = finished_run(run)
    warn_if_unverifiable(run)
    folder = RunFolder(run)
    folder.verify("*")
    target = out / run.name
    if out.resolve().is_relative_to(run.resolve()):
        raise DataError(f"out={out} is inside the run: name a folder outside of it")
    if target.exists():
        raise DataError(f"{target} exists already: remove it, or name another folder with out=")
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{run.name}.", dir=out) as made:
        part = Path(made, run.name)
        part.mkdir()  # with the user's permissions; the temporary folder is private
        for name in written(run):
            if Path(name).parts[0] not in LEFT_OUT and not _has_texts(run / name):
                _copy(run / name, part / name)
        done = (run / "DONE").read_text(encoding="utf-8")
        finished = (json_object(done) or {"finished": done.strip()})["finished"]
        (part / "DONE").write_text(Seal.of(part).text(str(finished)), encoding="utf-8")
        part.replace(target)
    return target


def _has_texts(path: Path) -> bool:
    return path.suffix == ".parquet" and bool(_TEXTS & set(pq.read_schema(path).names))


def _copy(source: Path, target: Path) -> None:
    if source.name == METRICS:
        # without a time, so that equal metrics give equal files
        with unpacked(source) as file, gzip.GzipFile(f"{target}.gz", "wb", mtime=0) as packed:
            shutil.copyfileobj(file, packed)
    elif source.name == PROVENANCE:
        content = _nameless(read_object(source) or {})
        target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        shutil.copyfile(source, target)


def _nameless(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a run and of its earlier attempts without what names the machine."""
    rest = {key: value for key, value in attempt.items() if key not in _OF_THE_MACHINE}
    earlier = attempt.get("earlier")
    attempts = earlier if isinstance(earlier, list) else []
    return rest | {"earlier": [_nameless(each) for each in attempts if isinstance(each, Mapping)]}
