"""Parts of docs/ that are computed: `python -m tests.pages` writes them, a test compares them."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.pages import editors_compared, found_values, index_for_models, memory, messages
from tests.paths import ROOT


@dataclass(frozen=True)
class Generated:
    """A file of docs/ that is computed as a whole or from its last heading of the second level on."""

    name: str
    content: Callable[[], str]
    below: str | None = None
    """The heading and the paragraph under it stay, and the content follows; null computes all."""

    def text(self) -> str:
        """The file as it should be."""
        if self.below is None:
            return self.content()
        begin, heading, end = self._stored().partition(f"\n## {self.below}\n\n")
        assert heading, f"{self.name} has no heading {self.below}"
        paragraph = end.partition("\n\n")[0]
        return f"{begin}{heading}{paragraph}\n\n{self.content()}"

    def write(self) -> None:
        """Write the file."""
        text = self.text()
        (ROOT / "docs" / self.name).write_text(text, encoding="utf-8")

    def is_current(self) -> bool:
        """Whether the file is as it should be."""
        return self._stored() == self.text()

    def _stored(self) -> str:
        return (ROOT / "docs" / self.name).read_text(encoding="utf-8")


GENERATED = (
    Generated("troubleshooting.md", messages.page, below="Every message with a way out"),
    Generated("editors.md", editors_compared.page, below="Side by side on SmolLM2-135M"),
    Generated("memory.md", memory.page, below="Weights and second moments"),
    Generated("models.md", found_values.page, below="What suggest found for SmolLM2-135M"),
    Generated("llms.txt", index_for_models.page),
)
