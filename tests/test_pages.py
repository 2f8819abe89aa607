"""The computed parts of docs/ are those that `python -m tests.pages` would write."""

import pytest

from tests.pages import GENERATED, Generated


@pytest.mark.parametrize("generated", GENERATED, ids=lambda generated: generated.name)
def test_a_computed_part_is_current(generated: Generated):
    assert generated.is_current(), f"{generated.name}: run python -m tests.pages"
