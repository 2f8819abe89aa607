"""How far the runs of an experiment are, from their folders alone."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from editors.errors import DataError
from pipeline.runs import messages
from pipeline.runs.atomic_files import read_json
from pipeline.runs.heartbeat import is_gone, read
from pipeline.runs.layout import is_done
from pipeline.sweeps import plan

State = Literal["running", "failed", "interrupted", "waiting", "done"]
MARKS = ("config.yaml", "metrics.jsonl", "DONE", "FAILED")
"""Files of which a run's folder holds one at least."""
TAIL = 1 << 16
"""Bytes at the end of `metrics.jsonl` that are looked at."""
_BEAT = frozenset({"host", "pid", "beat", "parts", "started"})
"""What a sign of life tells."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as it is now."""

    run: str
    overrides: tuple[str, ...]
    state: State
    told: str = ""
    """How far it is, or why it failed."""
    share: float = 0.0
    """Of the run that is done."""
    seconds: float | None = None
    """What it took, or has taken so far."""

    @property
    def left(self) -> float | None:
        """Seconds that a running one still takes, if it goes on like this."""
        if self.state != "running" or not self.share or self.seconds is None:
            return None
        return self.seconds * (1 - self.share) / self.share


def look(experiment: Path) -> list[Seen]:
    """Every run of an experiment, planned or begun.

    Raises:
        DataError: for a folder that holds none.
    """
    planned = {job.run: job.overrides for job in plan.read(experiment)}
    begun = sorted(path.parent.name for mark in MARKS for path in experiment.glob(f"*/{mark}"))
    names = list(dict.fromkeys([*planned, *begun]))
    if not names:
        raise DataError(
            f"{experiment} holds no run and no plan of one: name the folder of an experiment, such as "
            "outputs/quickstart"
        )
    return [_seen(experiment / name, planned.get(name)) for name in names]


def seconds_left(runs: Sequence[Seen]) -> float | None:
    """Until all are done, with as many at a time as now; None where that cannot be told."""
    running = [run for run in runs if run.state == "running"]
    took = [run.seconds for run in runs if run.state == "done" and run.seconds is not None]
    took += [run.seconds + run.left for run in running if run.seconds is not None and run.left is not None]
    if not running or not took:
        return None
    mean = sum(took) / len(took)
    ahead = [mean if run.left is None else run.left for run in running]
    waiting = mean * sum(run.state == "waiting" for run in runs)
    return max(max(ahead), (sum(ahead) + waiting) / len(running))


def _seen(folder: Path, planned: tuple[str, ...] | None) -> Seen:
    overrides = _overrides(folder) if planned is None else planned
    if is_done(folder):
        seconds = read_json(folder / "summary.json").get("seconds")
        return Seen(run=folder.name, overrides=overrides, state="done", share=1.0, seconds=seconds)
    failed = folder / "FAILED"
    if failed.is_file():
        lines = failed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        told = lines[0] if lines else "no reason was recorded"
        return Seen(run=folder.name, overrides=overrides, state="failed", told=told)
    beat = read(folder)
    if beat is None or not _BEAT.issubset(beat):
        return Seen(run=folder.name, overrides=overrides, state="waiting")
    gone = is_gone(beat)
    share, told, rate = _progress(_counted(beat["parts"], folder / "metrics.jsonl"))
    seconds = max(time.time() - beat["started"], 1e-9)
    if not gone and rate:
        told += f", {rate / seconds:.3g} a second"
    return Seen(
        run=folder.name,
        overrides=overrides,
        state="interrupted" if gone else "running",
        told=told,
        share=share,
        seconds=None if gone else seconds,
    )


def _progress(parts: Sequence[Mapping[str, Any]]) -> tuple[float, str, int]:
    """The share that is done, the part that is being computed in words, and all that was counted."""
    if not parts:
        return 0.0, "preparing", 0
    shares = [part["count"] / part["total"] if part["total"] else 1.0 for part in parts]
    part = next((part for part in parts if part["count"] < part["total"]), parts[-1])
    told = f"{part['count']} of {part['total']} {part['unit']}"
    return sum(shares) / len(shares), told, sum(part["count"] for part in parts)


def _counted(parts: Sequence[Mapping[str, Any]], metrics: Path) -> list[Mapping[str, Any]]:
    """The parts as far as the latest row says, which is younger than the latest beat."""
    row = last_row(metrics)
    index = row.get("part", 0)
    return [
        {**part, "count": max(part["count"], row.get(part["unit"], 0))} if i == index and row else part
        for i, part in enumerate(parts)
    ]


def last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a `metrics.jsonl`, of which only the end is read; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            continue  # torn, or the beginning is cut off
    return {}


def _overrides(folder: Path) -> tuple[str, ...]:
    return messages.tellable(read_json(folder / "provenance.json").get("overrides", ()))
