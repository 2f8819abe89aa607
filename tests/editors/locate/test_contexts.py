"""Context templates are sampled together, and are those that sampling one after another gives."""

from typing import cast

import pytest
import torch

from editors.locate.contexts import SampledContexts, flat
from editors.models.model import Model
from editors.models.tokenization import tokenize
from tests.tiny import FAMILIES, tiny_model


def one_after_another(model: Model, contexts: SampledContexts) -> list[str]:
    """The templates by whole passes over one text at a time, all drawn from one generator."""
    generator = torch.Generator().manual_seed(contexts.seed)
    templates = ["{}"]
    for length in contexts.lengths:
        for start in contexts.starts:
            end = [cast(int, model.tokenizer.eos_token_id)]
            ids = list(tokenize(model.tokenizer, start).ids) if start else end
            while len(ids) < length:
                row = torch.tensor([ids])
                with torch.no_grad():
                    hidden = model.hidden(row, torch.ones_like(row, dtype=torch.bool))[0, -1]
                    best = model.logits(hidden).topk(contexts.top_k)
                index = torch.multinomial(best.values.softmax(dim=-1), 1, generator=generator)
                ids.append(int(best.indices[int(index)]))
            text = str(model.tokenizer.decode(ids, skip_special_tokens=True))
            for symbol in "{}\n":
                text = text.replace(symbol, " ")
            templates.append(f"{text.strip()}. {{}}")
    return templates


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("double", [True, False])
def test_a_batch_draws_what_single_texts_draw(family: str, double: bool):
    model = tiny_model(family, double=double)
    # starts of several lengths, one of them longer than a sample, and samples of several lengths
    starts = ("The", "Therefore", "", "Because I live where people speak", "")
    contexts = SampledContexts(starts=starts, lengths=(5, 9), seed=3)
    assert list(flat(contexts.groups(model))) == one_after_another(model, contexts)


def test_a_token_is_read_once():
    model = tiny_model()
    shapes: list[tuple[int, ...]] = []
    model.hf.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    SampledContexts(starts=("",) * 4, lengths=(5, 10)).groups(model)
    assert shapes == [(8, 1)] * 9
