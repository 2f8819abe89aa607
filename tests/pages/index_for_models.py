"""llms.txt: the pages of the site in a form that language models read (llmstxt.org)."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from tests.paths import ROOT

LONGEST = 160
"""Characters of the description of a page; a longer one is cut at a word."""


def page() -> str:
    """The title, what the project does, and the pages of the navigation with their first sentences."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    home, *entries = nav
    return f"# normscope\n\n> {_first_paragraph(*home.values())}\n\n" + "".join(_lines(entries, 2))


def _lines(entries: list[Any], level: int) -> Iterator[str]:
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, str):
            yield f"- [{title}]({_address(target)}): {_shortened(_first_paragraph(target))}\n"
        else:
            yield f"\n{'#' * level} {title}\n\n" + "".join(_lines(target, level + 1))


def _address(source: str) -> str:
    """The address of a page, relative to the root of the site."""
    return re.sub(r"(README|index)?\.md$", "", source).rstrip("/") + "/"


def _first_paragraph(source: str) -> str:
    """The first paragraph of prose of a page, without links and marks."""
    text = (ROOT / "docs" / source).read_text(encoding="utf-8")
    for included in re.findall(r'^--8<-- "(.*)"$', text, re.M):
        text = (ROOT / included).read_text(encoding="utf-8")
    prose = (block for block in text.split("\n\n") if re.match(r"(?!```)[\w`*(\[]", block))
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|\*\*", r"\1", " ".join(next(prose).split()))


def _shortened(text: str) -> str:
    """The first sentence, or as many of its words as fit."""
    sentence = re.split(r"(?<=[.!?:]) ", text)[0].rstrip(":")
    if len(sentence) <= LONGEST:
        return sentence
    return sentence[:LONGEST].rpartition(" ")[0] + " …"
