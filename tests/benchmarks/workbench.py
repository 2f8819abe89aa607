"""What the rows share: models of the shapes of GPT-2-small and SmolLM2, second moments, facts, contexts."""

import random
from collections.abc import Sequence
from functools import cached_property

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from editors.data import Fact
from editors.locate.contexts import Groups
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.moments.moment_sources import GivenMoments
from tests.tiny import TEXT, tokenizer

MEMIT_LENGTHS, ROME_LENGTHS = [10] * 5, [5] * 10 + [10] * 10
"""Tokens of the published prefixes, which are sampled from the model; here they are drawn from a text."""
LAYERS = [3, 4, 5, 6, 7]


class Workbench:
    """Made when a row first asks for it."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A small one, which every model has."""
        return tokenizer()

    @cached_property
    def model(self) -> Model:
        """The GPT-2-small shape with random weights."""
        torch.manual_seed(0)
        return Model(GPT2LMHeadModel(GPT2Config()), self.tokenizer, name="gpt2-small-shape")

    @cached_property
    def deep(self) -> Model:
        """The SmolLM2-135M shape with random weights."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
        return Model(LlamaForCausalLM(config), self.tokenizer, name="smollm2-135m-shape")

    @cached_property
    def memit_contexts(self) -> Groups:
        """The bare prompt, and five prefixes."""
        return (("{}",), self._prefixed(MEMIT_LENGTHS))

    @cached_property
    def rome_contexts(self) -> Groups:
        """The bare prompt and twenty prefixes, all different."""
        return (("{}", *self._prefixed(ROME_LENGTHS)),)

    def _prefixed(self, lengths: Sequence[int]) -> tuple[str, ...]:
        rng, words = random.Random(0), " ".join(TEXT).replace(".", "").split()
        texts = [" ".join(rng.choices(words, k=12)) for _ in lengths]
        tokens = [tokenize(self.tokenizer, text) for text in texts]
        return tuple(
            f"{text[: token.spans[length - 1][1]]}. {{}}"
            for text, token, length in zip(texts, tokens, lengths, strict=True)
        )

    @cached_property
    def moments(self) -> GivenMoments:
        """One well-conditioned matrix for every layer."""
        return _moments(3072)

    @cached_property
    def deep_moments(self) -> GivenMoments:
        """The same for the deep model."""
        return _moments(1536)


def _moments(width: int) -> GivenMoments:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(width, 2 * width, generator=generator)
    shared = (keys @ keys.T / (2 * width)).double()
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
