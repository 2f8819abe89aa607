"""Parts of docs/ that are computed: `python -m tests.pages` writes them, a test compares them."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.pages import memory, messages
from tests.paths import ROOT


@dataclass(frozen=True)
class Generated:
    """The end of a page, from its last heading of the second level on."""

    page: str
    content: Callable[[], str]
    """The Markdown below the paragraph under that heading."""

    def text(self) -> str:
        """The page as it should be."""
        begin, heading, end = self._stored().rpartition("\n## ")
        title, paragraph, _ = end.split("\n\n", 2)
        return f"{begin}{heading}{title}\n\n{paragraph}\n\n{self.content()}"

    def write(self) -> None:
        """Write the page."""
        text = self.text()
        (ROOT / "docs" / self.page).write_text(text, encoding="utf-8")

    def is_current(self) -> bool:
        """Whether the page is as it should be."""
        return self._stored() == self.text()

    def _stored(self) -> str:
        return (ROOT / "docs" / self.page).read_text(encoding="utf-8")


GENERATED = (Generated("troubleshooting.md", messages.page), Generated("memory.md", memory.page))
