"""Prose of real Wikipedia articles that an installable package carries: English text without a hub.

The wheel of gensim holds an excerpt of the English Wikipedia's dump among the data of its tests: 99 articles
from Achilles to Azerbaijan in 2016 (CC BY-SA 3.0 and GFDL). gensim is not imported; its file is read, and
markup is removed by mwparserfromhell.
"""

import bz2
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from editors.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mwparserfromhell.wikicode import Wikicode  # pyright: ignore[reportMissingImports]

PACKAGE = "gensim"
FILE = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
FORMAT = 1
"""Version of the selection and cleaning of the text; part of its identity."""
HELD_OUT = 5
"""Every fifth article is held out."""
LEAST_WORDS = 30
"""Words of a paragraph, so that captions, items of lists and cells of tables are left out."""
_INSTALL = "install it with `pip install gensim mwparserfromhell`, or read a text of your own by corpus=file"
_NO_PROSE = {"gallery", "imagemap", "math", "ref", "table", "timeline"}
_NAMESPACE = re.compile(r"(?i)\s*:?(file|image|category|[a-z-]{2,12}):")
_REMAINS = re.compile(r"[|{}=\[\]<>]|\(\s*[,;.]?\s*\)|\s[,.;:]|  |thumb")
"""Remains of markup, and the gaps of templates, of which the text says nothing."""

Part = Literal["moments", "held_out"]


@dataclass(frozen=True, kw_only=True)
class PackagedArticles:
    """One of two disjoint parts of the articles; a document is the prose of a section.

    Raises:
        DataError: if the package is not installed, when the text is read.
    """

    part: Part = "moments"
    """`moments`: four of five articles. `held_out`: every fifth one, for tasks and measurements."""

    def __post_init__(self) -> None:
        if self.part not in ("moments", "held_out"):
            raise ConfigError(f"the part {self.part!r} of the articles has to be moments or held_out")

    def identity(self) -> str:
        """Hash of the package's file, version of the cleaning, and part."""
        return f"articles-{_digest(_packaged_file())}-{FORMAT}/{self.part}"

    @property
    def label(self) -> str:
        """Source and part."""
        return f"Wikipedia articles in {PACKAGE} ({self.part.replace('_', ' ')})"

    def __iter__(self) -> Iterator[str]:
        """Sections in the order of the file, a line a paragraph; articles are cleaned as they are reached."""
        number = -1
        with bz2.open(_packaged_file()) as file:
            for _, element in ElementTree.iterparse(file):
                if not element.tag.endswith("}page"):
                    continue
                if element.find("{*}redirect") is None:
                    number += 1
                    if (number % HELD_OUT == HELD_OUT - 1) == (self.part == "held_out"):
                        yield from _sections(element.findtext("{*}revision/{*}text") or "")
                element.clear()


def paragraphs(section: str) -> list[str]:
    """The lines of a section that are whole sentences of prose."""
    lines = (line.strip() for line in section.split("\n"))
    return [
        line
        for line in lines
        if len(line.split()) >= LEAST_WORDS
        and line[0].isupper()
        and line[-1] in '.!?"'
        and not _REMAINS.search(line)
    ]


@lru_cache(maxsize=256)
def _sections(markup: str) -> tuple[str, ...]:
    """The prose of every section of an article that has any."""
    import mwparserfromhell  # pyright: ignore[reportMissingImports] -- it belongs to an extra

    code = mwparserfromhell.parse(markup)
    _remove_markup(code)
    sections = code.get_sections(flat=True, include_headings=False)
    prose = (paragraphs(section.strip_code()) for section in sections)
    return tuple("\n".join(lines) for lines in prose if lines)


def _remove_markup(code: "Wikicode") -> None:
    """Remove what is no prose: references, tables, pictures, and links to other name spaces."""
    tags = code.filter_tags(matches=lambda tag: str(tag.tag) in _NO_PROSE)
    links = code.filter_wikilinks(matches=lambda link: _NAMESPACE.match(str(link.title)) is not None)
    for node in [*tags, *links]:
        if code.contains(node):  # it may have been inside one that was removed
            code.remove(node)


def _packaged_file() -> Path:
    """The file of the installed package.

    Raises:
        DataError: if a package is missing, or does not have the file.
    """
    try:
        distribution("mwparserfromhell")
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError as error:
        raise DataError(f"the packaged text needs the package {error.name}: {_INSTALL}") from error
    if not path.is_file():
        raise DataError(f"this version of {PACKAGE} has no {path.name}: {_INSTALL}")
    return path


@lru_cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
