"""What the rows share: a model of GPT-2-small's shape, second moments, facts, contexts."""

from functools import cached_property

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from editors.locate.contexts import Groups
from editors.locate.moments import GivenMoments
from editors.model.facts import Fact
from editors.model.model import Model
from tests.tiny import tokenizer

PREFIXES = (
    "The river. {}",
    "Because I live. {}",
    "Everyone in town. {}",
    "You are little. {}",
    "English is spoken. {}",
)
MEMIT_CONTEXTS: Groups = (("{}",), PREFIXES)
ROME_CONTEXTS: Groups = (("{}", *PREFIXES * 4),)
LAYERS = [3, 4, 5, 6, 7]


class Workbench:
    """Made when a row first asks for it."""

    @cached_property
    def model(self) -> Model:
        """The GPT-2-small shape with random weights."""
        torch.manual_seed(0)
        return Model(GPT2LMHeadModel(GPT2Config()), tokenizer(), name="gpt2-small-shape")

    @cached_property
    def moments(self) -> GivenMoments:
        """One well-conditioned matrix for every layer."""
        generator = torch.Generator().manual_seed(0)
        keys = torch.randn(3072, 6144, generator=generator)
        shared = (keys @ keys.T / 6144).double()
        return GivenMoments(matrices=dict.fromkeys(range(12), shared))


def facts(count: int) -> list[Fact]:
    """Subjects of a few tokens, objects of one or two."""
    names = ("Ada Byron", "Danielle Darrieux", "Jean Brialy", "Jacques Attali")
    return [
        Fact(
            id=str(i),
            prompt="The mother tongue of {} is",
            subject=f"{names[i % 4]} {chr(97 + i % 26)}",
            target_new=("English", "town", "river")[i % 3],
        )
        for i in range(count)
    ]
