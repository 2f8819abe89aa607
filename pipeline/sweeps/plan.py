"""The plan of a sweep: `sweep.json` beside its runs lists them, and finds them again without composing.

Composing takes longer than everything else about a run that is done. It is not needed for a job whose
overrides composed to a known run before, on the same files.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, NotRequired

from filelock import FileLock
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from editors.disk import remove_parts
from pipeline.config.fingerprint import NUMERICS
from pipeline.runs.atomic_files import write_json
from pipeline.runs.messages import numerical

NAME = "sweep.json"

_VARIABLE = re.compile(r"oc\.env:\s*['\"]?(\w+)")


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a sweep."""

    run: Annotated[str, Field(pattern=r"^[\w-]+$")]
    """The name of its folder."""
    overrides: tuple[str, ...]
    """Its overrides, without secrets."""
    invocation: str | None
    """Digest of everything that it was composed from; None if it is computed again each time."""


class _Plan(TypedDict):
    name: NotRequired[str]
    """The experiment's; a plan from before there was one is regarded as copied."""
    jobs: list[PlannedRun]


_PLAN = TypeAdapter(_Plan)


def sources_of(folders: Iterable[Path]) -> list[str]:
    """The text of every YAML file of a configuration, in a fixed order, each after its name."""
    texts: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            texts += [path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")]
    return texts


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts and of the environment variables that they refer to, in hex digits."""
    listed = list(texts)
    variables = sorted({name for text in listed for name in _VARIABLE.findall(text)})
    content = [listed, [os.environ.get(name) for name in variables]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def invocation(composed_from: str, overrides: Sequence[str]) -> str:
    """Digest that is equal for overrides that compose to the same run.

    `composed_from` is the digest of the files and of Hydra's own overrides.
    """
    return digest([composed_from, str(NUMERICS), *numerical(overrides)])


def read(experiment: Path) -> list[PlannedRun]:
    """The plan in the folder of an experiment; empty if it is missing or cannot be read.

    In a folder that was copied or renamed, its runs are composed again: they were those of another name.
    """
    try:
        stored = _PLAN.validate_json((experiment / NAME).read_bytes())
    except (OSError, ValueError):
        return []
    if stored.get("name") == experiment.resolve().name:
        return stored["jobs"]
    return [replace(job, invocation=None) for job in stored["jobs"]]


def known(root: Path) -> dict[str, Path]:
    """The folder of each run that was planned in any experiment, by invocation."""
    return {
        job.invocation: path.parent / job.run
        for path in sorted(root.glob(f"*/{NAME}"))
        for job in read(path.parent)
        if job.invocation is not None
    }


def merge(experiment: Path, jobs: Sequence[PlannedRun]) -> None:
    """Add jobs to the plan of an experiment; a job replaces one with the same overrides."""
    experiment.mkdir(parents=True, exist_ok=True)
    with FileLock(experiment / f".{NAME}.lock"):
        remove_parts(experiment, NAME)
        merged = {job.overrides: job for job in [*read(experiment), *jobs]}
        plan = {"name": experiment.resolve().name, "jobs": [asdict(job) for job in merged.values()]}
        write_json(experiment / NAME, plan)
