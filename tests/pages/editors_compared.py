"""What 100 edits by each editor leave in SmolLM2-135M, from the runs in `docs/real/editors`."""

from analysis.reports.leaderboard import group_of, scores
from analysis.results.collection import collect
from analysis.results.markdown import markdown
from analysis.spelling import spelled
from tests.paths import ROOT


def page() -> str:
    """A table of editors, as Markdown, the best score first."""
    table = group_of(scores(collect(ROOT / "docs" / "real" / "editors"))).table
    table = table.assign(editor=table["editor"].map(spelled)).drop(columns=["seeds", "peak GiB"])
    return markdown(table) + "\n"
