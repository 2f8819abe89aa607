"""Every message of the code that names a way out, read from the sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

PACKAGES = ("editors", "analysis", "pipeline")
ERRORS = {"ConfigError", "DataError", "ModelError", "NumericsError", "MachineError"}
# fmt: off
PARTS = {
    "Models": ("editors/models",),
    "Second moments": ("editors/moments",),
    "Editors": ("editors/methods", "editors/locate", "editors/solvers.py", "editors/errors.py"),
    "Regularizers": ("editors/regularizers",),
    "Facts, texts and pairs": ("editors/data.py", "editors/text_files.py", "pipeline/data"),
    "Configuration": ("pipeline/config", "pipeline/build.py", "pipeline/command_line.py"),
    "Interventions": ("pipeline/interventions", "editors/controls"),
    "Stages": ("analysis/stages", "analysis/inference", "analysis/statistics"),
    "Runs and checkpoints": (
        "pipeline/runs", "pipeline/checkpoints", "editors/update_files.py", "editors/tensor_files.py",
    ),
    "Sweeps, launchers, trackers": (
        "pipeline/sweeps", "pipeline/launchers", "pipeline/tracking", "pipeline/progress",
    ),
    "Commands and results": ("pipeline/commands", "pipeline/notebook", "analysis/"),
}
# fmt: on
"""Heading to the places of the code; a file belongs to the first that fits."""
VERBS = """add allow another ask build check choose collect complete compute copy correct delete download drop
    export fetch fill free give install keep leave list load log lower make measure merge move name omit
    open pass pick pip put python raise remove rename repair replace resume=never run save select set
    shorten split spell start state store take train try turn unset use wait write""".split()
GAP = "…"
"""Stands for a value."""


class Message(NamedTuple):
    problem: str
    way_out: str


def page() -> str:
    """The messages below headings, as Markdown."""
    found: dict[str, list[Message]] = {heading: [] for heading in PARTS}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        heading = next((heading for heading, places in PARTS.items() if name.startswith(places)), None)
        if messages := list(_messages(path)):
            assert heading is not None, f"{name} belongs to no part of the page"
            found[heading] += messages
    return "\n".join(f"### {heading}\n\n{_list(messages)}" for heading, messages in found.items() if messages)


def _list(messages: list[Message]) -> str:
    return "".join(sorted({f"* {_escaped(problem)}: **{_escaped(out)}**\n" for problem, out in messages}))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _messages(path: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        if node.func.id in ERRORS and (message := _split(_text(node.args[0]))):
            yield message


def _text(node: ast.expr) -> str:
    """The text of a literal, with a gap for every value in it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_text, parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
    return GAP


def _split(text: str) -> Message | None:
    """The problem and the way out, which begins with a verb after a colon or a semicolon."""
    for mark in re.finditer(r"[:;] ", text):
        way_out = text[mark.end() :]
        if way_out.split(" ")[0].strip(",") in VERBS:
            return Message(text[: mark.start()], way_out)
    return None
