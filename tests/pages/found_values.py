"""What `suggest` found for SmolLM2-135M, from the headers of its files in `conf/hparams`."""

import re
from collections.abc import Iterator

from tests.paths import CONF

_FOLDER = CONF / "hparams" / "smollm2-135m"
_COLUMNS = ("ES", "PS", "NS", "score", "norm ratio")


def page() -> str:
    """A table of editors, as Markdown, the best score first."""
    rows = sorted(_rows(), key=lambda row: (-float(row[5]), row[0]))
    heading = ["editor", "edited", *_COLUMNS, "trials", "first trial"]
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows() -> Iterator[list[str]]:
    for file in _FOLDER.glob("*.yaml"):
        lines = [line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        header = " ".join(lines)
        how = _found(r"edited ([\w ]+):", header)
        numbers = [_found(rf"{column} ([\d.]*\d)", header) for column in _COLUMNS]
        trials = _found(r"the best of (\d+) trials", header)
        yield [f"`{file.stem}`", how, *numbers, trials, _found(r"scores ([\d.]*\d)", header)]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in: {text}"
    return match[1]
