"""Causal tracing against plain runs of one cell at a time, and the places at which effects must peak."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from analysis.inference.residuals import PARTS
from analysis.stages.base import Measurement, Observation
from analysis.stages.tracing.corrupted_runs import CorruptedRuns, Prompt, RestoredCell, tokenize_fact
from analysis.stages.tracing.stage import CausalTrace, blocks_around, token_classes
from editors.data import Fact
from editors.errors import ConfigError, DataError
from editors.models.hooks import replace_output
from editors.models.model import Model
from editors.updates import Site
from tests.tiny import DEPTH, FACTS, FAMILIES, WIDTH, tiny_model

SEEN = Observation(count=0, total=0)
LAST = f"{DEPTH - 1:02d}"


@dataclass(frozen=True)
class FactList:
    """A data set, and a source of it."""

    facts: Sequence[Fact] = FACTS

    def load(self) -> "FactList":
        return self


def knowing(model: Model, facts: Sequence[Fact] = FACTS) -> Model:
    """The model with a head that answers the facts' true objects."""
    prompts = [tokenize_fact(model, fact) for fact in facts]
    ends = [model.hidden(*_row(prompt))[0, -1] for prompt in prompts]
    best = [model.logits(end).max() for end in ends]
    head = model.hf.get_output_embeddings().weight
    for prompt, end, logit in zip(prompts, ends, best, strict=True):
        head.data[prompt.answer] = end * (logit + 3) / (end @ end)
    return model


def _row(prompt: Prompt) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([prompt.ids])
    return ids, torch.ones_like(ids, dtype=torch.bool)


def traced(model: Model, **choices: object) -> Measurement:
    stage = CausalTrace(**({"source": FactList(), "samples": 3} | choices))
    stage.prepare(model)
    return stage.measure(model, SEEN)


def noise_for(prompt: Prompt, samples: int = 3, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return scale * torch.randn(samples, len(prompt.subject), WIDTH, generator=generator)


@torch.no_grad()
def plainly(model: Model, prompt: Prompt, noise: Tensor | None, cell: RestoredCell | None = None) -> float:
    """P(answer) by a whole forward pass of one row; the clean values by another one."""
    clean: dict[tuple[str, int], Tensor] = {}

    def keep(site: tuple[str, int], output: Tensor) -> Tensor:
        clean[site] = output.clone()
        return output

    def put_back(site: tuple[str, int], output: Tensor, positions: Sequence[int]) -> Tensor:
        output = output.clone()
        for position in positions:
            output[0, position] = clean[site][0, position]
        return output

    def hide(output: Tensor) -> Tensor:
        output = output.clone()
        for number, position in enumerate(prompt.subject):
            output[0, position] += noise[number]
        return output

    sites = [(cell.kind, layer) for layer in cell.layers] if cell else []
    ids = torch.tensor([prompt.ids])
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(replace_output(model.module(*site), lambda o, s=site: keep(s, o)))
        logits = model.hf(input_ids=ids).logits
    if noise is not None:
        with ExitStack() as stack:
            stack.enter_context(replace_output(model.hf.get_input_embeddings(), hide))
            for site in sites:
                stack.enter_context(
                    replace_output(model.module(*site), lambda o, s=site: put_back(s, o, cell.positions))
                )
            logits = model.hf(input_ids=ids).logits
    return float(logits[0, -1].softmax(dim=0)[prompt.answer])


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_cells_are_those_of_whole_passes_one_by_one(family: str):
    model = knowing(tiny_model(family))
    for fact in FACTS:
        prompt = tokenize_fact(model, fact)
        noise = noise_for(prompt, samples=2)
        cells = [
            RestoredCell(kind, blocks_around(layer, DEPTH, 1 if kind == "block" else 2), (place,))
            for kind in PARTS
            for layer in range(DEPTH)
            for place in range(prompt.subject.start, len(prompt.ids))
        ]
        runs = CorruptedRuns(model, prompt, noise, batch_tokens=97)
        assert runs.clean == pytest.approx(plainly(model, prompt, None), abs=1e-10)
        corrupted = [plainly(model, prompt, one) for one in noise]
        assert runs.corrupted.tolist() == pytest.approx(corrupted, abs=1e-10)
        assert max(abs(runs.clean - one) for one in corrupted) > 1e-4
        found = runs.probabilities(cells)
        for cell, row in list(zip(cells, found, strict=True))[::7]:
            expected = [plainly(model, prompt, one, cell) for one in noise]
            assert row.tolist() == pytest.approx(expected, abs=1e-10), cell


@pytest.mark.parametrize("family", FAMILIES)
def test_all_positions_after_a_block_restored_give_the_clean_answer(family: str):
    model = knowing(tiny_model(family))
    prompt = tokenize_fact(model, FACTS[0])
    runs = CorruptedRuns(model, prompt, noise_for(prompt))
    assert float((runs.corrupted - runs.clean).abs().max()) > 1e-3
    everywhere = range(len(prompt.ids))
    whole = runs.probabilities(
        [RestoredCell("block", (0,), everywhere), RestoredCell("block", (2,), everywhere)]
    )
    assert whole.flatten().tolist() == pytest.approx([runs.clean] * 6, abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_traced_model_has_the_total_effect_at_the_top_of_its_last_token(family: str):
    found = traced(knowing(tiny_model(family)))
    assert found["trace/known/facts"] == len(FACTS)
    assert found["trace/total/mean"] > 0.05
    difference = found["trace/clean/mean"] - found["trace/corrupted/mean"]
    assert found["trace/total/mean"] == pytest.approx(difference)
    assert found[f"trace/block/last.{LAST}"] == pytest.approx(found["trace/total/mean"])
    for position in ("subject_last", "next", "middle"):
        for kind in PARTS:  # nothing reads what the last block writes there
            assert found[f"trace/{kind}/{position}.{LAST}"] == pytest.approx(0, abs=1e-12)


def test_without_noise_there_is_no_effect_anywhere():
    found = traced(knowing(tiny_model()), noise=0.0)
    effects = [value for key, value in found.items() if key.split("/")[1] in (*PARTS, "total")]
    assert len(effects) > 3 * DEPTH
    assert effects == pytest.approx([0.0] * len(effects), abs=1e-12)


def test_effects_are_means_over_draws_then_tokens_of_a_class_then_facts():
    model = knowing(tiny_model())
    stage = CausalTrace(source=FactList(), samples=2, noise=2.0, seed=3)
    stage.prepare(model)
    found = stage.measure(model, SEEN)
    order = random.Random(3).sample(FACTS, len(FACTS))
    prompts = [tokenize_fact(model, fact) for fact in order]
    entries = [
        model.embedding.weight[token] for p in prompts for token in p.ids[p.subject[0] : p.subject.stop]
    ]
    scale = 2.0 * torch.stack(entries).std()
    generator = torch.Generator().manual_seed(3)
    means = []
    for prompt in prompts:
        noise = scale * torch.randn(2, len(prompt.subject), WIDTH, generator=generator)
        lowest = sum(plainly(model, prompt, one) for one in noise) / 2
        places = token_classes(prompt).get("subject_middle", [])
        cells = [RestoredCell("mlp", (1,), (place,)) for place in places]
        restored = [plainly(model, prompt, one, cell) for cell in cells for one in noise]
        means += [sum(restored) / len(restored) - lowest] if restored else []
    assert 0 < len(means) < len(FACTS)
    assert found["trace/mlp/subject_middle.01"] == pytest.approx(sum(means) / len(means), abs=1e-5)


def only(site: str, layer: int) -> Model:
    """A model in which no other block's matrix of that name does anything, and this one much."""
    model = tiny_model()
    for block in range(DEPTH):
        model.write(Site(site, block), (10 if block == layer else 0) * model.weight(site, block))
    return knowing(model, FACTS[:2])


def test_the_only_mlp_that_does_something_is_the_peak():
    found = traced(only("mlp_down", 1))
    effects = [found[f"trace/mlp/subject_last.{layer:02d}"] for layer in range(DEPTH)]
    assert effects[1] > 1e-3
    assert [*effects[:1], *effects[2:]] == pytest.approx([0, 0, 0], abs=1e-12)
    assert found["trace/peak/mlp"] == 1


def test_the_only_active_attention_carries_the_total_effect():
    found = traced(only("attn_o", 2))
    assert found["trace/attention/last.02"] == pytest.approx(found["trace/total/mean"])
    assert found["trace/attention/last.01"] == pytest.approx(0, abs=1e-12)
    assert found["trace/late/attention"] == 2


def test_a_part_of_the_cells_has_the_effects_that_it_has_among_all():
    model = knowing(tiny_model())
    part = traced(model, kinds=["mlp"], classes=["subject_last"])
    whole = traced(model)
    assert {key: whole[key] for key in part} == pytest.approx(part, abs=1e-10)
    assert {key.split(".")[0] for key in part if "mlp" in key} == {"trace/mlp/subject_last", "trace/peak/mlp"}
    with pytest.raises(ConfigError, match=r"kinds=\['head'\], but it is a list of block, attention, mlp"):
        CausalTrace(kinds=["head"])


def test_a_window_restores_its_blocks_together():
    assert [blocks_around(layer, 6, 1) for layer in (0, 5)] == [range(1), range(5, 6)]
    assert blocks_around(3, 6, 3) == range(2, 5)
    assert blocks_around(20, 48, 10) == range(15, 25)
    assert blocks_around(0, 48, 10) == range(5) and blocks_around(47, 48, 10) == range(42, 48)


def test_every_token_from_the_subject_on_is_in_one_class():
    ids = tuple(range(8))
    assert token_classes(Prompt(ids, range(1, 4), 0)) == {
        "subject_first": [1], "subject_middle": [2], "subject_last": [3], "next": [4], "middle": [5, 6],
        "last": [7],
    }  # fmt: skip
    assert token_classes(Prompt(ids, range(5, 6), 0)) == {"subject_last": [5], "next": [6], "last": [7]}
    assert token_classes(Prompt(ids, range(6, 8), 0)) == {"subject_first": [6], "last": [7]}
    assert token_classes(Prompt((1,), range(1), 0)) == {"last": [0]}


def test_the_batch_size_changes_nothing_and_another_seed_does():
    model = knowing(tiny_model())
    whole = traced(model)
    assert traced(model, batch_tokens=40) == pytest.approx(whole, abs=1e-10)
    assert traced(model) == whole
    assert traced(model, seed=1)["trace/corrupted/mean"] != whole["trace/corrupted/mean"]


def test_tracing_leaves_weights_hooks_and_random_state_as_they_were():
    model = knowing(tiny_model())
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    state = torch.get_rng_state()
    traced(model)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.hf.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


def test_facts_that_the_model_does_not_answer_are_left_out():
    model = knowing(tiny_model(), FACTS[:2])
    assert traced(model)["trace/known/facts"] == 2
    assert traced(model, only_known=False)["trace/known/facts"] == 3
    assert traced(model, facts=1)["trace/known/facts"] == 1


def test_the_edited_facts_are_traced():
    """Also after the model has forgotten them."""
    model = knowing(tiny_model())
    stage = CausalTrace(source=FactList(FACTS[1:]), samples=2)
    stage.prepare(model, FACTS[:1])
    before = stage.measure(model, SEEN)
    site = Site("mlp_down", 1)
    model.write(site, -model.weight(*site))
    after = stage.measure(model, SEEN)
    assert before["trace/known/facts"] == after["trace/known/facts"] == 1
    assert after["trace/clean/mean"] < before["trace/clean/mean"]


def test_nothing_to_trace_is_refused_with_the_reason():
    model = tiny_model()
    with pytest.raises(ConfigError, match=r"stage\.tracing\.source is not set"):
        CausalTrace().prepare(model)
    strangers = [replace(fact, target_true="river") for fact in FACTS]
    with pytest.raises(DataError, match=r"tiny-gpt2 answers none of 3 facts.*only_known=false"):
        CausalTrace().prepare(model, strangers)
    with pytest.raises(DataError, match=r"none of the 3 facts has a true object.*alternative"):
        CausalTrace().prepare(model, [replace(fact, target_true="") for fact in FACTS])
    with pytest.raises(DataError, match=r"has .* tokens, but tiny-gpt2 reads at most 64"):
        CausalTrace().prepare(model, [replace(FACTS[0], prompt="river " * 64 + "{} is")])
    with pytest.raises(ConfigError, match=r"stage\.tracing\.window=0.*at least 1"):
        CausalTrace(window=0)
