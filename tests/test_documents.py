"""Pages: the trees of folders are those on disk, and relative links lead to files and headings."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import CONF, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


SITE_ONLY = {"docs/index.md", "docs/changelog.md"}
"""Pages that stand for README.md and CHANGELOG.md on the site."""


def tree(page: Path, heading: str) -> Iterator[str]:
    """The paths of the first code block below a heading: two spaces of indentation per folder.

    Words of a description that end with a slash are folders below.
    """
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    block = re.sub(r"\n {4,}", " ", section.split("```")[1])
    folder = ""
    for line in block.strip("\n").splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        yield folder + name if line.startswith(" ") else name
        yield from (name + part for part in line.split()[1:] if part.endswith("/"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them, and those that it sets itself."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def links(page: Path) -> Iterator[str]:
    """The relative links and images of a page, outside code."""
    text = re.sub(r"`[^`]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    yield from (target for target in LINK.findall(text) if not re.match(r"\w+:", target))


TREES = {
    "docs/architecture.md": list(tree(ROOT / "docs" / "architecture.md", "The tree")),
    "README.md": list(tree(ROOT / "README.md", "Project structure")),
}


@pytest.mark.parametrize("page", TREES)
def test_every_path_of_the_tree_exists(page: str):
    assert len(TREES[page]) > 20
    for name in TREES[page]:
        path = ROOT / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name


@pytest.mark.parametrize("page", TREES)
@pytest.mark.parametrize("package", ["editors", "analysis", "pipeline"])
def test_the_tree_shows_every_sub_package(page: str, package: str):
    parts = {f"{package}/{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
    assert parts and parts <= set(TREES[page])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files_and_headings(page: Path):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_readme_is_short_and_links_every_page_of_docs():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").split()) <= 900
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - {"docs/style.md", *SITE_ONLY}
    assert pages <= {target.partition("#")[0] for target in links(readme)}


@pytest.mark.parametrize(
    ("page", "group"),
    [("editors", "editor"), ("regularizers", "regularizer"), ("stages", "stage"),
     ("interventions", "intervention"), ("interventions", "intervention/control")],
)  # fmt: skip
def test_a_page_names_every_option_of_its_group(page: str, group: str):
    options = {path.stem for path in (CONF / group).glob("*.yaml")} - {"none", "training"}
    assert options <= set(re.findall(r"`(\w+)`", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))


def test_the_readme_counts_the_methods_of_the_pages():
    counts = {}
    for page in ("editors", "regularizers"):
        first_table = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").partition("|---")[2]
        counts[page] = len(re.findall(r"^\| `", first_table.partition("\n\n")[0], re.M))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "{editors} editors, {regularizers} regularizers".format(**counts) in readme


def test_links_and_headings_are_found():
    assert sum(len(list(links(page))) for page in PAGES) > 100
    assert "templates" in anchors(ROOT / "docs" / "extend.md")
    assert "docs/sweeps.md#browse" in set(links(ROOT / "README.md"))
