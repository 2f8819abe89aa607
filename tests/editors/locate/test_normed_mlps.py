"""Edits of models with a norm between the MLP and the residual stream, on random configurations.

The oracle is transformers' own forward pass with unedited weights and a shift of the outputs of down
projections at the subject: the state that the optimisation of targets ends in.
"""

import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, Olmo2Config, PretrainedConfig

from editors.base import Edit, Targets
from editors.data import Fact
from editors.locate.base import LocateThenEdit
from editors.locate.contexts import GivenContexts
from editors.models.hooks import capture, replace_output
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.moments.moment_sources import GivenMoments
from editors.regularizers.base import Regularizer
from tests.editors.cases import LOCATING, distilled
from tests.tiny import LINEAR, NORMED, in_double, optimizer, tiny_model, tokenizer

BARE = (("{}",),)
FACT = Fact(id="end", prompt="Everyone in town admires {}", subject="Rob", target_new="the")
"""Its object is one token and follows the subject, so that nothing but the subject's state is shifted."""
NO_DRIFT = {"kl_weight": 0.0, "decay": 0.0}
SEEDS = pytest.mark.parametrize("seed", range(3))
EVERY = pytest.mark.parametrize("family", NORMED)


def random_model(family: str, seed: int) -> Model:
    """A model of random sizes and weights, in float64."""
    draw = random.Random(f"{family} {seed}")
    heads, head = draw.choice([2, 4]), draw.choice([8, 16])
    sizes = {
        "hidden_size": 8 * heads * draw.choice([1, 2]), "num_hidden_layers": draw.choice([5, 6]),
        "num_attention_heads": heads, "num_key_value_heads": draw.choice([1, heads]),
        "intermediate_size": draw.choice([40, 56]), "vocab_size": 384, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
        "tie_word_embeddings": draw.random() < 0.5,
    }  # fmt: skip
    gemma = {"head_dim": head, "query_pre_attn_scalar": head, "sliding_window": draw.choice([4, 32])}
    config: PretrainedConfig = {
        "gemma2": lambda: Gemma2Config(**sizes, **gemma),
        "gemma3": lambda: Gemma3TextConfig(**sizes, **gemma),
        "olmo2": lambda: Olmo2Config(**sizes),
    }[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config)
        for parameter in hf.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return Model(in_double(hf), tokenizer(), name=f"random-{family}")


def edited(model: Model, name: str, layers: list[int], **targets: float) -> tuple[LocateThenEdit, Edit]:
    """An editor that writes at the subject alone: the keys of the other tokens are preserved."""
    settings: dict[str, object] = {"layers": layers, "contexts": GivenContexts(templates=BARE)}
    settings["moments"] = GivenMoments(matrices=others(model, layers))
    if name == "lti":
        settings["targets"] = distilled(middle_layer=model.depth - 1, **targets)
    elif name != "pmet":
        settings["targets"] = optimizer(**(NO_DRIFT | targets))
    made = LOCATING[name](model, **settings)
    made.prepare(model)
    return made, made.edit(model, [FACT])


def others(model: Model, layers: list[int]) -> dict[int, Tensor]:
    """A second moment in which the keys of every token before the subject weigh 10⁸ times the identity."""
    ids, mask = model.encode([FACT.statement])
    with capture(inputs={layer: model.module("mlp_down", layer) for layer in layers}) as keys:
        model.hidden(ids, mask)
    last = subject(model)
    return {
        layer: 1e-4 * torch.eye(keys[layer].shape[-1]).double()
        + 1e4 * keys[layer][0, :last].T @ keys[layer][0, :last]
        for layer in layers
    }


def subject(model: Model) -> int:
    """Position of the subject's last token."""
    return tokenize_prompt(model.tokenizer, FACT).subject_last


def shifted(model: Model, shifts: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], Tensor]:
    """The down projections' outputs at the subject and the log-probabilities there, in a plain pass."""
    at, modules = subject(model), {layer: model.module("mlp_down", layer) for layer in range(model.depth)}
    with ExitStack() as hooks, torch.no_grad():
        for layer, shift in shifts.items():
            mark = torch.zeros(at + 1, 1, dtype=torch.float64)
            mark[at] = 1
            hooks.enter_context(replace_output(modules[layer], partial(torch.add, mark * shift)))
        outputs = hooks.enter_context(capture(outputs=modules))
        logits = model.hf(input_ids=model.encode([FACT.statement])[0]).logits[0, at]
    return {layer: output[0, at] for layer, output in outputs.items()}, logits.log_softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The targets of an edit, and its three passes: outputs of down projections, and the prediction."""

    found: Targets
    shifts: Mapping[int, Tensor]
    aimed: tuple[dict[int, Tensor], Tensor]
    """With the shifts that the optimisation found."""
    before: tuple[dict[int, Tensor], Tensor]
    after: tuple[dict[int, Tensor], Tensor]
    """With the update in place of the shifts."""


def passes(model: Model, made: LocateThenEdit, edit: Edit, layers: list[int]) -> Passes:
    """Find the targets again, pass with their shifts and without, and apply the update."""
    found = made.targets.find(model, [FACT], BARE, layers, Regularizer())
    shifts = dict(zip(layers, (found.vectors - found.initial)[0], strict=True))
    aimed, before = shifted(model, shifts), shifted(model, {})
    model.apply(edit.update)
    return Passes(found=found, shifts=shifts, aimed=aimed, before=before, after=shifted(model, {}))


@EVERY
@SEEDS
@pytest.mark.parametrize(("name", "layers"), [("rome", [1]), ("r_rome", [2]), ("emmet_exact", [0, 1, 3])])
def test_an_edit_ends_in_the_state_that_the_optimisation_ended_in(family, seed, name, layers):
    """Down projections reach their targets, and the prediction is the one that the shifts gave."""
    model = random_model(family, seed)
    made, edit = edited(model, name, layers)
    seen = passes(model, made, edit, layers)
    (goals, aimed), (before, unedited), (reached, predicted) = seen.aimed, seen.before, seen.after
    for layer in layers:
        assert seen.shifts[layer].norm() > 0.1 * before[layer].norm(), "there is something to reach"
        torch.testing.assert_close(reached[layer], goals[layer], rtol=1e-3, atol=1e-4)
    assert edit.targets is not None
    torch.testing.assert_close(edit.targets[0], goals[layers[-1]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predicted, aimed, rtol=1e-3, atol=1e-3)
    assert (aimed - unedited).abs().max() > 0.05
    token = tokenize_prompt(model.tokenizer, FACT, target=FACT.target_new).target_ids[0]
    assert float(-aimed[token]) == pytest.approx(float(seen.found.losses), rel=1e-5)


@EVERY
@SEEDS
@pytest.mark.parametrize("name", ["memit", "pmet", "lti"])
def test_every_block_closes_its_residual_but_for_what_the_corpus_is_worth(family, seed, name):
    """Least squares shrinks the residual of each MLP by one factor and does not turn it."""
    model, layers = random_model(family, seed), [0, 2]
    made, edit = edited(model, name, layers)
    seen = passes(model, made, edit, layers)
    (goals, _), (before, _), (reached, _) = seen.aimed, seen.before, seen.after
    change, wanted = reached[layers[0]] - before[layers[0]], goals[layers[0]] - before[layers[0]]
    assert torch.nn.functional.cosine_similarity(change, wanted, dim=0) > 1 - 1e-6
    assert 0.5 < float(change.norm() / wanted.norm()) < 1
    assert (reached[2] - goals[2]).norm() < (before[2] - goals[2]).norm()


@pytest.mark.parametrize("family", NORMED)
def test_a_matrix_that_grows_by_a_factor_changes_nothing_behind_its_norm(family):
    """The reason for which the residual stream is no linear function of the down projection."""
    model = tiny_model(family)
    ids, mask = model.encode([FACT.statement])
    before = model.hidden(ids, mask)
    grown = model.weight("mlp_down", 1)
    grown.copy_(1e3 * grown)
    mlp = model.module("mlp_down", 1)
    with capture(outputs={"v": mlp}) as seen:
        after = model.hidden(ids, mask)
    small = float(seen["v"].square().mean(dim=-1).min()) / 1e6
    assert (after - before).abs().max() < 1e-4 * (1 + 1e-6 / small) * before.abs().max()
    assert LINEAR[0] == "gpt2" and not tiny_model("gpt2").has_normed_mlp
