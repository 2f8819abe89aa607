"""Growth has exact norms, whatever the facts say; it writes none, so the editors' contract cannot hold."""

import pytest
import torch

from editors.base import Editor
from editors.controls.growth import Growth
from editors.errors import ConfigError, NumericsError
from editors.updates import Site
from tests.editors.cases import bits, perform, same_bits
from tests.tiny import FACTS, FAMILIES, tiny_model

DIRECTIONS = pytest.mark.parametrize("direction", ["random", "scaled"])
SITE = Site("mlp_down", 1)


@pytest.mark.parametrize("family", FAMILIES)
@DIRECTIONS
def test_every_edit_multiplies_the_norm_exactly_and_touches_nothing_else(family: str, direction: str):
    model = tiny_model(family)
    editor = Growth(layers=[1], factor=1.2, direction=direction)
    assert isinstance(editor, Editor)
    editor.prepare(model)
    before, norm = bits(model), float(model.current(SITE).norm())
    editor.edit(model, FACTS[:1])
    assert same_bits(model, before)
    perform(model, editor, FACTS[:1], FACTS[1:])
    assert float(model.current(SITE).norm()) == pytest.approx(norm * 1.2**3, rel=1e-12)
    changed = [key for key, value in bits(model).items() if not torch.equal(value, before[key])]
    assert len(changed) == 1


def test_random_growth_is_orthogonal_to_the_matrix():
    """Scaled growth is along the matrix."""
    model = tiny_model()
    random, scaled = (
        Growth(layers=[1], direction=direction).edit(model, FACTS[:1]).update[SITE]
        for direction in ("random", "scaled")
    )
    weight = model.current(SITE)
    assert abs(random.inner(weight)) < 1e-10 * random.norm() * float(weight.norm())
    torch.testing.assert_close(scaled.dense(), weight * 0.1)


def test_the_direction_hangs_on_seed_edits_and_site_alone():
    model = tiny_model()
    state = torch.get_rng_state()
    drawn = Growth(layers=[1]).edit(model, FACTS[:1]).update[SITE].dense()
    assert torch.equal(drawn, Growth(layers=[1]).edit(model, FACTS[1:2]).update[SITE].dense())
    assert not torch.allclose(drawn, Growth(layers=[1], seed=1).edit(model, FACTS[:1]).update[SITE].dense())
    assert torch.equal(state, torch.get_rng_state())


def test_a_restored_one_continues_bit_for_bit():
    model = tiny_model()
    editor, twin = Growth(layers=[1]), Growth(layers=[1])
    perform(model, editor, FACTS[:2])
    twin.load_state_dict(editor.state_dict())
    one, other = (each.edit(model, FACTS[2:]).update[SITE].dense() for each in (editor, twin))
    assert torch.equal(one, other)


def test_impossible_choices_are_refused():
    with pytest.raises(ConfigError, match=r"factor=1.*above 1"):
        Growth(layers=[1], factor=1.0)
    with pytest.raises(ConfigError, match=r"factor=-1.*above 0"):
        Growth(layers=[1], factor=-1.0, direction="scaled")
    with pytest.raises(ConfigError, match="mlp_sideways"):
        Growth(layers=[1], site="mlp_sideways").prepare(tiny_model())
    model = tiny_model()
    model.write(SITE, torch.zeros_like(model.weight(*SITE)))
    with pytest.raises(NumericsError, match="it cannot grow"):
        Growth(layers=[1]).edit(model, FACTS[:1])
