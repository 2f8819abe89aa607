"""Names of methods as people read them."""

import pytest

from analysis.spelling import spelled
from tests.paths import CONF


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("encore · history, mpes", "ENCORE · history, MPES"),
        ("cpt → memit · cpt", "CPT → MEMIT · CPT"),
        ("ft_l", "FT-L"),
        ("my_memit", "my_memit"),
        ("memit, data.path=/d/ft/prune.jsonl", "MEMIT, data.path=/d/ft/prune.jsonl"),
        ("rome/a editor=rome llama-ft ft.csv", "rome/a editor=rome llama-ft ft.csv"),
        ("by rome, memit and encore.", "by ROME, MEMIT and ENCORE."),
        ("memit <b>", "MEMIT <b>"),
        ("batch_size=10", "batch_size=10"),
        ("", ""),
    ],
)
def test_names_are_written_as_their_authors_do(text: str, shown: str):
    assert spelled(text) == shown


def test_every_control_is_written_in_words():
    named = {path.stem for path in (CONF / "intervention" / "control").glob("*.yaml")}
    assert not [name for name in named if "_" in spelled(name)]


def test_every_editor_of_a_paper_has_a_spelling():
    named = {path.stem for path in (CONF / "editor").glob("*.yaml")}
    ours = {"growth", "context", "alphaedit_lti"}
    assert {name for name in named if spelled(name) == name} == ours
