"""Reads offline runs of Weights & Biases with its own reader."""

import json
import subprocess
from pathlib import Path

from wandb.util import get_core_path


def wandb_summary(folder: Path) -> dict[str, dict]:
    """Configuration, summary and state of the one offline run in a run folder."""
    return json.loads(_inspected(folder, "--summary"))


def wandb_records(folder: Path) -> list[dict[str, dict]]:
    """All records of the one offline run in a run folder."""
    return [json.loads(line) for line in _inspected(folder).splitlines()]


def rows_of(records: list[dict[str, dict]]) -> list[dict[str, object]]:
    """The history without W&B's own keys."""
    items = [record["history"]["item"] for record in records if "history" in record]
    return [{key: value for key, value in item.items() if key[0] != "_"} for item in items]


def exit_code(records: list[dict[str, dict]]) -> int:
    """What the run was closed with."""
    (code,) = [record["exit"].get("exit_code", 0) for record in records if "exit" in record]
    return code


def _inspected(folder: Path, *options: str) -> str:
    """What `wandb leet inspect` prints, which imports the library for a second to start this program."""
    (run,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [get_core_path(), "leet", "inspect", "--no-observability", *options, "--json"]
    command += ["--run-file", str(run), str(run.parent.parent)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
