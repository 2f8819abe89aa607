"""The same facts in an order by their keys."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from editors.data import SLOT
from editors.errors import ConfigError
from editors.locate.keys import keys_of
from editors.updates import Site
from pipeline.build import build
from pipeline.config.schema import resolved
from pipeline.interventions.fact_order import chain, ordered
from tests.tiny import FACTS, tiny_model

Composed = Callable[..., DictConfig]
SITES = [Site("mlp_down", 2), Site("mlp_down", 1)]


def steps(keys: torch.Tensor, places: list[int]) -> float:
    """Mean cosine of neighbours in the chain."""
    centred = keys - keys.mean(dim=0)
    units = (centred / centred.norm(dim=1, keepdim=True))[places]
    return float((units[1:] * units[:-1]).sum(dim=1).mean())


def test_a_chain_has_every_row_once_and_similar_or_unlike_neighbours():
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    keys = centres.repeat(5, 1) + torch.randn(20, 6, generator=generator, dtype=torch.float64)
    clustered, dispersed = (chain(keys, largest=largest) for largest in (True, False))
    assert sorted(clustered) == sorted(dispersed) == list(range(20)) and clustered[0] == dispersed[0] == 0
    assert steps(keys, clustered) > 0.5 > 0.0 > steps(keys, dispersed)
    assert steps(keys, dispersed) < steps(keys, list(range(20))) < steps(keys, clustered)


def test_facts_are_ordered_by_keys_of_their_bare_prompts():
    model = tiny_model()
    keys = keys_of(model, FACTS, ((SLOT,),), [1])[1].T
    by_key = ordered(model, FACTS, "clustered", SITES)
    assert [fact.id for fact in by_key] == [FACTS[i].id for i in chain(keys, largest=True)]
    assert list(ordered(model, FACTS, "reverse", SITES)) == list(FACTS)[::-1]
    assert ordered(model, FACTS, "given", SITES) is FACTS


def test_an_unknown_order_and_one_of_replaced_facts_are_refused(composed: Composed):
    with pytest.raises(ConfigError, match=r"intervention\.order=sorted has to be one of given, reverse"):
        build(resolved(composed("+intervention.order=sorted")))
    with pytest.raises(ConfigError, match=r"moves facts, but with intervention\.cycle=true"):
        build(resolved(composed("+intervention.order=reverse", "+intervention.cycle=true")))
