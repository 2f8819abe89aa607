"""The estimate of memory counts what an edit holds, and asking for it changes nothing."""

import pytest
import torch

from editors.models.memory import count_saved
from editors.models.model import Model
from editors.models.partial_forward import record
from tests.editors.cases import EDITORS, bits, make_memit, same_bits
from tests.tiny import DEPTH, FACTS, FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cached_prefixes_of_every_block_are_counted(family):
    model = tiny_model(family)
    held = [record(model, [ids] * 2, [[1, 2]] * 2, 1).held() for ids in ([3, 4, 5], [3, 4, 5, 6, 7, 8])]
    assert held[1] == 2 * held[0] > 0
    assert held[0] % (2 * 2 * 3 * DEPTH * model.dtype.itemsize) == 0  # keys and values, rows, tokens, blocks


def test_the_graph_of_a_product_keeps_its_input_and_not_the_weight():
    model = tiny_model()
    weight = model.weight("mlp_down", 0)
    given = torch.ones(5, weight.shape[1], dtype=weight.dtype, requires_grad=True)
    with count_saved(model) as graph:
        (given * 2.0).tanh() @ weight.T
    assert (
        graph.bytes == given.numel() * given.itemsize
    )  # tanh keeps its output; factor and weight are not counted


@pytest.mark.parametrize("editor", EDITORS)
def test_asking_changes_nothing_and_more_facts_need_more(editor):
    model: Model = tiny_model()
    made = EDITORS[editor](model)
    before = bits(model)
    one, three = made.memory(model, FACTS[:1]), made.memory(model, FACTS)
    assert 0 < one < three
    assert same_bits(model, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


def test_more_layers_need_more():
    model = tiny_model()
    few, many = (make_memit(model, layers=layers).memory(model, FACTS) for layers in ([1], [0, 1]))
    assert few < many
