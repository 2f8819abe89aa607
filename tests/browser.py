"""A page in the system's Chromium, with everything that it asked for and complained of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Watched:
    """A page and what happened on it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    """Messages of the console, and errors."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for."""

    def outside(self, *own: str) -> list[str]:
        """The addresses that begin with none of these, or with `data:` or `blob:`."""
        return [url for url in self.requests if not url.startswith((*own, "data:", "blob:"))]

    def resize(self, width: int) -> None:
        """Set the width, and wait until nothing has to be scrolled sideways."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")


@contextmanager
def watched_page(*, width: int) -> Iterator[Watched]:
    """An empty page; the test is skipped without a Chromium or without playwright."""
    chromium = shutil.which("chromium") or pytest.skip("no chromium on the path")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(90_000)  # other programs may use the same cores
        watched = Watched(page)
        page.on("console", lambda message: watched.problems.append(message.text))
        page.on("pageerror", lambda error: watched.problems.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        yield watched
        browser.close()
