"""The results of the parts: one JSON file, written after every row, and one Markdown table of it."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers

from tests.gpu.bench import Row


@dataclass
class Result:
    """What came of a part."""

    part: str
    budget_s: float
    status: str = "running"
    """`done`, `interrupted`, `skipped` or `failed`, with the reason."""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


def machine() -> dict[str, str]:
    """The device and the versions."""
    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else f"no GPU ({platform.machine()}): narrow models"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, **versions, "cuda": str(torch.version.cuda), "python": platform.python_version()}


def write(results: Sequence[Result], folder: Path) -> None:
    """Write `gpu.json` and `gpu.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "parts": [asdict(result) for result in results]}
    (folder / "gpu.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(markdown(content), encoding="utf-8")


def markdown(content: Mapping) -> str:
    """The table: one line per row, and one per part that did not end."""
    lines = [
        ", ".join(f"{key} {value}" for key, value in content["machine"].items()),
        "",
        "| part | what | numbers | goals |",
        "|---|---|---|---|",
    ]
    for part in content["parts"]:
        name = part["part"]
        lines += [
            f"| {name} | {_cell(str(row['what']))} | {_numbers(row)} | {'; '.join(_verdicts(row))} |"
            for row in part["rows"]
        ]
        if part["status"] != "done":
            lines.append(f"| {name} | {_cell(part['status'])} | | |")
    return "\n".join(lines) + "\n"


def _numbers(row: Row) -> str:
    named = {key: value for key, value in row.items() if key != "what" and not key.endswith("_goal")}
    return "; ".join(f"{key} {_shown(value)}" for key, value in named.items() if value != "")


def _verdicts(row: Row) -> Iterator[str]:
    """Utilisation has to be at least its goal, everything else at most."""
    for key, goal in row.items():
        name = key.removesuffix("_goal")
        if name == key:
            continue
        least = name == "utilisation"
        met = float(row[name]) >= float(goal) if least else float(row[name]) <= float(goal)
        yield f"{name} {'≥' if least else '≤'} {_shown(goal)}: {'met' if met else 'missed'}"


def _shown(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
