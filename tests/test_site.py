"""The site of docs/ builds without a warning, loads nothing from elsewhere, and shows every page and name."""

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.browser import watched_page
from tests.paths import ROOT

CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
PUBLIC = {name: ROOT / name / "__init__.pyi" for name in ("editors", "analysis", "pipeline")}
PUBLIC["normscope"] = ROOT / "normscope.py"
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""By tag the attribute with the address of what a browser loads."""

pytestmark = pytest.mark.xdist_group("site")  # they share one build


def nav_pages(entries: list[Any]) -> Iterator[str]:
    """The pages of a part of the navigation, in its order."""
    for entry in entries:
        (target,) = entry.values()
        yield from [target] if isinstance(target, str) else nav_pages(target)


class Loaded(HTMLParser):
    """The addresses that a page loads from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADS.get(tag, "")) or ""
        if re.match(r"(\w+:)?//", address):
            self.addresses.append(address)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line per request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """The address of the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def site() -> Path:
    """The site, built once in a run of tests; a warning, such as a link to nowhere, is an error."""
    folder = ROOT / CONFIG["site_dir"]
    built, run = folder.with_name("site.run"), os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name("site.lock")):
        if not built.exists() or built.read_text() != run:
            command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            built.write_text(run)
    return folder


def test_the_tests_of_a_group_run_in_one_process(request: pytest.FixtureRequest):
    """pytest-xdist marks them by their ids; with a pytest that hides these from it, every group is spread."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("pytest runs in one process")
    assert request.node.nodeid.endswith("@site")


def test_every_page_is_in_the_navigation_or_a_page_of_results():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = list(nav_pages(CONFIG["nav"]))
    assert len(listed) == len({*listed})
    assert {*listed} == {page for page in pages if not page.startswith("results/")}


def test_the_site_has_every_page_and_its_search(site: Path):
    for page in nav_pages(CONFIG["nav"]):
        folder = page.removesuffix(".md").removesuffix("index").removesuffix("README")
        assert (site / folder / "index.html").is_file(), page
    assert "MEMIT" in (site / "search.json").read_text(encoding="utf-8")
    assert not list(site.rglob("metrics.jsonl.gz"))


def test_the_index_for_models_leads_to_pages(site: Path):
    addresses = re.findall(r"^- \[.*?\]\((.*?)\): .", (site / "llms.txt").read_text(encoding="utf-8"), re.M)
    assert len(addresses) == len(list(nav_pages(CONFIG["nav"]))) - 1  # all but the first page
    assert all((site / address / "index.html").is_file() for address in addresses)


def test_no_page_loads_anything_from_elsewhere(site: Path):
    loaded = Loaded()
    for page in site.rglob("*.html"):
        loaded.feed(page.read_text(encoding="utf-8"))
    for style in site.rglob("*.css"):
        loaded.addresses += re.findall(r"url\([\"']?((?:\w+:)?//[^)]*)", style.read_text(encoding="utf-8"))
    assert loaded.addresses == []


@pytest.mark.parametrize("module", PUBLIC)
def test_the_python_pages_show_every_public_name(module: str, site: Path):
    public = re.findall(r"\b(\w+) as \1\b", PUBLIC[module].read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "api" / f"{module}.md").read_text(encoding="utf-8")
    assert public and re.findall(r"^::: (\S+)$", page, re.M) == [f"{module}.{name}" for name in public]
    built = (site / "api" / module / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<h3 id="\S*?(\w+)"', built)
    assert {*public} <= {*shown}


@pytest.mark.browser
def test_a_browser_searches_the_site_and_shows_it_on_a_narrow_screen(served: str):
    """Without a request to another host, without an error, and without scrolling sideways."""
    with watched_page(width=420) as watched:
        page = watched.page
        for name in ("", "start/", "editors/", "metrics/", "results/", "api/editors/"):
            page.goto(served + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= 420, name
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(served)
        page.get_by_role("button", name="Search").first.click()
        page.locator("input[aria-label=Search]").fill("preservation weight")
        page.get_by_text(re.compile(r"^[1-9]\d* results$")).wait_for()
    assert watched.problems == []
    assert watched.outside(served) == []
