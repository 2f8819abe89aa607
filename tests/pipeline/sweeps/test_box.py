"""The space that is searched around published values, and the values that are guessed for another model."""

from pathlib import Path

import pytest

from pipeline.config.models import published
from pipeline.config.models.published import LAYERS, nearest, with_values
from pipeline.sweeps.box import WIDENED, box, ranges
from tests.paths import CONF

PUBLISHED = [
    {LAYERS: [1], "editor.weight": 10.0, "editor.steps": 20, "editor.kl": 1.0, "editor.stop": 0.0},
    {LAYERS: [2], "editor.weight": 1e4, "editor.steps": 30, "editor.kl": 1.0, "editor.stop": 0.5},
]
GUESS = {LAYERS: [2, 3], "editor.weight": 1e3, "editor.steps": 20, "editor.kl": 1.0, "editor.stop": 0.5}


def test_what_differs_between_models_is_searched_and_the_rest_is_kept():
    found = box(PUBLISHED, GUESS, [[2, 3], [1, 2]])
    assert found.space == {
        "editor.weight": f"tag(log,interval({10.0 / WIDENED!r},{1e4 * WIDENED!r}))",
        "editor.steps": "range(13,45)",
        "editor.stop": "choice(0.0,0.5)",
        "layers.edit": "choice([2,3],[1,2])",
    }
    assert found.fixed == {"editor.kl": 1.0}
    assert found.guess == {
        "editor.weight": 1e3,
        "editor.steps": 20,
        "editor.stop": 0.5,
        "layers.edit": "[2,3]",
    }


def test_a_guess_beyond_the_published_values_lies_in_the_space_and_one_range_of_blocks_is_kept():
    found = box(PUBLISHED, GUESS | {"editor.weight": 1e6, "editor.sites": ["mlp_up"]}, [[0]])
    assert found.space["editor.weight"].endswith(f",{1e6 * WIDENED!r}))")
    assert found.fixed == {"editor.kl": 1.0, "editor.sites": ["mlp_up"], "layers.edit": [0]}


def test_blocks_are_those_of_the_guess_and_of_the_peak_with_neighbours_inside_the_stack():
    assert ranges([3, 4, 5, 6], None, 30) == [[3, 4, 5, 6], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert ranges([5], 9, 30) == [[5], [9], [4], [8], [6], [10]]
    assert ranges([0, 1], 3, 4) == [[0, 1], [2, 3], [1, 2]]
    assert ranges([1, 4], 3, 9) == [[1, 4]]
    assert ranges([*range(4)], 2, 4) == [[0, 1, 2, 3]]


def test_values_are_read_with_those_that_a_file_builds_on():
    values = published.published("encore")["gpt2-xl"]
    assert values["editor.preservation_weight"] == 20000.0
    assert values["regularizer.mpes.hits"] == 4
    assert values[LAYERS] == [13, 14, 15, 16, 17]


def test_numbers_of_blocks_are_scaled_to_another_depth():
    origin, values = nearest("lti", 24)
    assert origin == "gpt-j-6b"
    assert len(values[LAYERS]) == 5 and values[LAYERS][0] in (2, 3)
    assert values["editor.targets.middle_layer"] < 24
    assert nearest("lti", None) == ("", {})
    assert nearest("no such editor", 24) == ("", {})


def test_a_model_of_a_path_gets_the_values_of_its_name(tmp_path: Path):
    (tmp_path / "hparams" / "my-model").mkdir(parents=True)
    given = ["--config-dir", str(tmp_path), "model=hf", "model.path=/models/My-Model", "editor=rome"]
    assert with_values(given) == [*given, "hparams=my-model/${editor}"]
    assert with_values(given[2:]) == given[2:]
    named = [*given, "model.name=other"]
    assert with_values(named) == named
    assert with_values(["model=gpt2-xl"]) == ["model=gpt2-xl"]


@pytest.mark.parametrize("editor", sorted(path.stem for path in (CONF / "editor").glob("*.yaml")))
def test_every_editor_can_be_searched_from_the_values_of_other_models(editor: str):
    """A new editor needs no more than its values for one model."""
    if values := nearest(editor, 30)[1]:
        found = box([*published.published(editor).values()], values, ranges(values[LAYERS], 5, 30))
        assert found.space or editor in ("prune", "rect")
