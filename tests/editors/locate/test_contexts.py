"""Context templates are sampled together, and are those that sampling one after another gives."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from editors.locate.contexts import SampledContexts, flat
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.phases import Phase
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


def test_sampling_reports_its_tokens():
    phases: list[Phase] = []
    SampledContexts(starts=("",) * 2 + ("The river",), lengths=(5, 9)).groups(tiny_model(), phases.append)
    assert {(phase.name, phase.total, phase.unit) for phase in phases} == {
        ("sampling contexts", 42, "tokens")
    }
    counts = [phase.count for phase in phases]
    assert counts == sorted(counts) and counts[-1] < 42


def passes(model: Model) -> list[int]:
    """A list that grows with every forward pass."""
    counted: list[int] = []
    model.hf.base_model.register_forward_pre_hook(lambda *_: counted.append(1))
    return counted


def test_kept_contexts_are_read_and_are_those_that_sampling_gives(tmp_path: Path):
    plain = SampledContexts(seed=1)
    kept = replace(plain, cache=str(tmp_path))
    sampled = plain.groups(tiny_model())
    assert kept.groups(tiny_model()) == sampled
    again = tiny_model()
    counted = passes(again)
    assert kept.groups(again) == sampled and not counted
    # the bare slot's weight is no matter of the samples
    assert flat(replace(kept, bare_weighs_half=False).groups(again)) == flat(sampled) and not counted


@pytest.mark.parametrize("changes", [{"seed": 2}, {"lengths": (9,)}, {"top_k": 2}, {"starts": ("I",)}])
def test_other_settings_are_sampled_anew(tmp_path: Path, changes: dict):
    kept = SampledContexts(seed=1, cache=str(tmp_path))
    kept.groups(tiny_model())
    other, model = replace(kept, **changes), tiny_model()
    counted = passes(model)
    assert other.groups(model) == replace(other, cache=None).groups(tiny_model()) and counted


def test_another_model_or_precision_is_sampled_anew(tmp_path: Path):
    kept = SampledContexts(cache=str(tmp_path))
    for model in (tiny_model(), tiny_model("llama"), tiny_model(double=False)):
        counted = passes(model)
        assert kept.groups(model) == replace(kept, cache=None).groups(model) and counted


@pytest.mark.parametrize("damage", ["truncated", "changed", "foreign"])
def test_a_damaged_or_foreign_file_is_named_and_sampled_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    kept = SampledContexts(cache=str(tmp_path))
    sampled = kept.groups(tiny_model())
    (file,) = tmp_path.glob("*/*.safetensors")
    if damage == "foreign":
        replace(kept, seed=5).groups(tiny_model())
        (other,) = (path for path in tmp_path.glob("*/*.safetensors") if path.parent != file.parent)
        file.write_bytes(other.read_bytes())
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[:-20] if damage == "truncated" else whole.replace(b"The", b"Teh", 1))
    model = tiny_model()
    counted = passes(model)
    assert kept.groups(model) == sampled and counted
    assert str(file) in caplog.text and "it is computed again" in caplog.text
    assert kept.groups(tiny_model()) == sampled


def test_processes_that_begin_together_sample_once(tmp_path: Path):
    kept, models = SampledContexts(cache=str(tmp_path)), [tiny_model() for _ in range(4)]
    counted = [passes(model) for model in models]
    with ThreadPoolExecutor() as threads:
        groups = list(threads.map(kept.groups, models))
    assert len(set(groups)) == 1 and sum(map(bool, counted)) == 1
