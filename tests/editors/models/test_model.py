"""The substrate on random models of every family."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, PretrainedConfig, Qwen3MoeConfig
from transformers.cache_utils import DynamicCache

from editors.errors import ConfigError, ModelError, NumericsError
from editors.models.hooks import capture, observe, replace_output
from editors.models.model import Model
from editors.models.partial_forward import record
from editors.updates import Delta, Site
from tests.tiny import DEPTH, FAMILIES, NORMED, TEXT, WIDTH, tiny_model, tokenizer

EVERY = pytest.mark.parametrize("family", FAMILIES)


def run(model: Model, texts: list[str], side: str = "right") -> list[torch.Tensor]:
    """Last hidden states of the real tokens of each text."""
    ids, mask = model.encode(texts, side)
    hidden = model.hidden(ids, mask)
    return [hidden[i][mask[i]] for i in range(len(texts))]


@EVERY
def test_every_site_multiplies_as_out_times_in(family: str):
    model = tiny_model(family)
    ids, mask = model.encode([TEXT[0]])
    for site in model.sites:
        module = model.module(site, 1)
        with capture(inputs={"x": module}, outputs={"y": module}) as seen:
            model.hidden(ids, mask)
        weight = model.weight(site, 1)
        rows = model.family.fused.get(site)
        written = seen["y"] if rows is None else seen["y"][..., rows(model.hf.config)]
        bias = module.bias if rows is None or module.bias is None else module.bias[rows(model.hf.config)]
        expected = seen["x"] @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(written, expected)


@EVERY
def test_padding_side_and_batch_composition_change_nothing(family: str):
    model = tiny_model(family)
    alone = [run(model, [text])[0] for text in (TEXT[0], "Rob.")]
    for side in ("left", "right"):
        for one, many in zip(alone, run(model, [TEXT[0], "Rob."], side), strict=True):
            torch.testing.assert_close(one, many)


@EVERY
def test_float32_differs_from_float64_by_rounding(family: str):
    """In float32 every family attends as transformers does, and so with a cap of the scores (Gemma 2)."""
    texts = [TEXT[0], "Rob."]
    for single, double in zip(
        *(run(tiny_model(family, double=d), texts) for d in (False, True)), strict=True
    ):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@EVERY
def test_head_on_hidden_states_is_the_models_own_head(family: str):
    model = tiny_model(family)
    ids, mask = model.encode([TEXT[0]])
    with capture(outputs={"h": model.block(DEPTH - 1)}) as seen:
        own = model.hf(input_ids=ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(model.logits(model.normed(seen["h"])), own)


@EVERY
def test_what_the_writers_write_adds_up_to_the_residual_stream(family: str):
    model = tiny_model(family)
    parts = {
        (kind, layer): model.writer(kind, layer) for kind in ("attention", "mlp") for layer in range(DEPTH)
    }
    with capture(inputs={"x": model.block(0)}, outputs=parts | {"y": model.block(DEPTH - 1)}) as seen:
        model.hidden(*model.encode([TEXT[0], "Rob."]))
    torch.testing.assert_close(seen["x"] + sum(seen[part] for part in parts), seen["y"])
    assert (model.output_norm("mlp", 0) is not None) == model.has_normed_mlp == (family in NORMED)


@EVERY
def test_tokens_after_a_cache_see_what_the_whole_text_sees(family: str):
    """The text is longer than the window of models that have one."""
    model = tiny_model(family)
    ids, mask = model.encode([TEXT[0] + TEXT[1]])
    assert ids.shape[1] > 40
    whole, cache = model.hidden(ids, mask), DynamicCache()
    parts = [model.hidden_next(part, cache) for part in ids.split([20, 1, ids.shape[1] - 21], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@EVERY
def test_recorded_blocks_see_a_prefix_that_is_longer_than_the_window(family: str):
    model = tiny_model(family)
    ids, mask = model.encode([TEXT[0] + TEXT[1]])
    row = ids[0].tolist()
    replay = record(model, [row[:30]], [row[30:]], 1)
    found = model.normed(replay.run(replay.hidden, 1, DEPTH - 1))
    torch.testing.assert_close(found, model.hidden(ids, mask)[:, 30:])


@EVERY
def test_applying_and_restoring_a_change_of_any_site_gives_back_every_bit(family: str):
    model = tiny_model(family)
    sites = [Site(name, 2) for name in model.sites]
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    kept = model.snapshot(sites)
    update = {site: Delta(left=torch.ones_like(kept[site])) for site in sites}
    model.apply(update)
    for site in sites:
        torch.testing.assert_close(model.weight(*site), kept[site] + 1)
    model.restore(kept)
    assert all(torch.equal(before[key], value) for key, value in model.hf.state_dict().items())


def test_fused_attention_is_cut_into_disjoint_parts_that_cover_it():
    for family in ("gpt2", "neox"):
        model = tiny_model(family)
        cut = [model.weight(site, 0) for site in ("attn_q", "attn_k", "attn_v")]
        whole = model.module("attn_q", 0).weight
        torch.testing.assert_close(sum((c**2).sum() for c in cut), (whole**2).sum())


def test_small_updates_of_a_half_precision_model_add_up_in_its_master():
    model = tiny_model(double=False)
    model.hf.bfloat16()
    site = Site("mlp_down", 1)
    start = model.weight(*site).float().clone()
    step = torch.full_like(start, 1e-5)
    for _ in range(100):
        model.apply({site: Delta(left=step)})
    torch.testing.assert_close(model.master(site), start + 1e-3)
    assert model.weight(*site).dtype == torch.bfloat16
    torch.testing.assert_close(model.weight(*site), (start + 1e-3).bfloat16())


def test_a_master_that_is_restored_has_the_layout_of_the_first():
    """Otherwise norms of a resumed run would differ in their last bits: GPT-2's matrices are transposed."""
    model, site = tiny_model(double=False), Site("mlp_down", 1)
    model.hf.to(torch.bfloat16)
    model.apply({site: Delta(left=torch.ones_like(model.master(site)))})
    layout = model.current(site).stride()
    model.restore({site: model.current(site).contiguous()})
    assert model.current(site).stride() == layout != model.current(site).contiguous().stride()


def test_nothing_is_applied_where_one_change_is_not_finite():
    model = tiny_model()
    before = model.snapshot([Site("mlp_down", 0)])
    good = Delta(left=torch.ones_like(before[Site("mlp_down", 0)]))
    bad = Delta(left=good.left * float("nan"))
    with pytest.raises(NumericsError, match=r"mlp_down\.01"):
        model.apply({Site("mlp_down", 0): good, Site("mlp_down", 1): bad})
    assert torch.equal(model.weight("mlp_down", 0), before[Site("mlp_down", 0)])


def test_unknown_sites_and_layers_are_named():
    model = tiny_model()
    with pytest.raises(ConfigError, match=r"no site 'mlp_gate'.*mlp_down"):
        model.module("mlp_gate", 0)
    with pytest.raises(ConfigError, match=r"\[1, 9\].*4 blocks \(0\.\.3\)"):
        model.check_layers([1, 9])


def test_the_digest_identifies_weights_and_tokenizer():
    """Equal models have equal digests."""
    one, same, other = tiny_model(), tiny_model(), tiny_model(kind="bos")
    changed = tiny_model()
    changed.write(Site("mlp_down", 0), changed.weight("mlp_down", 0) * 1.01)
    assert one.digest == same.digest
    assert len({one.digest, other.digest, changed.digest}) == 3


@EVERY
def test_the_digest_reads_every_entry_of_every_parameter(family: str):
    model = tiny_model(family)
    digests = {model.digest}
    for parameter in model.hf.parameters():
        entry = parameter.detach().reshape(-1)[1:2]
        before = entry.clone()
        entry += 1e-9
        model.was_edited()
        digests.add(model.digest)
        entry.copy_(before)
    model.was_edited()
    assert len(digests) == 1 + len(list(model.hf.parameters())) and model.digest in digests


def test_the_digest_reads_the_whole_vocabulary():
    model, other = tiny_model(), tiny_model()
    other.tokenizer.add_tokens(["Darrieux"])
    assert model.digest != other.digest
    model.encode(["Rob walks", "to"])  # a call sets truncation and padding
    assert model.digest == tiny_model().digest


def test_the_digest_is_that_of_the_values_in_any_precision_that_holds_them():
    model = tiny_model(double=False)
    model.hf.half()
    digest = model.digest
    for dtype in (torch.float32, torch.float64, torch.float16):
        model.hf.to(dtype)
        model.was_edited()
        assert model.digest == digest
    model.hf.bfloat16()
    model.was_edited()
    assert model.digest != digest


def test_an_unsupported_architecture_is_refused_with_what_is_supported():
    hf = tiny_model().hf
    hf.config.model_type = "bert"
    with pytest.raises(ModelError, match=r"'bert' is not supported; supported are gemma2"):
        Model(hf, tokenizer())


@pytest.mark.parametrize("kind", [Qwen3MoeConfig, MixtralConfig, OlmoeConfig])
def test_a_mixture_of_experts_is_refused_by_name(kind: type[PretrainedConfig]):
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = kind(**sizes, vocab_size=384, intermediate_size=48)
    config.update({"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1})
    with pytest.raises(
        ModelError, match=rf"^model_type '{config.model_type}' is not supported; supported are"
    ):
        Model(AutoModelForCausalLM.from_config(config), tokenizer())


def test_observed_outputs_are_the_captured_ones():
    """No hook is left behind."""
    model, seen = tiny_model(), {}
    blocks = {layer: model.block(layer) for layer in range(model.depth)}
    ids, mask = model.encode(["Rob walks to town"])
    with capture(outputs=blocks) as captured, observe(blocks, lambda key, output: seen.update({key: output})):
        model.hidden(ids, mask)
    assert list(seen) == list(blocks)
    assert all(torch.equal(seen[layer], captured[layer]) for layer in blocks)
    assert not any(module._forward_hooks for module in model.hf.modules())


def test_hooks_are_gone_after_the_block_also_on_an_error():
    model = tiny_model()
    module = model.module("mlp", 0)
    with pytest.raises(RuntimeError, match="mine"), capture(inputs={"x": module}):
        raise RuntimeError("mine")
    with replace_output(module, torch.zeros_like):
        assert module._forward_hooks
    assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_replaced_output_reaches_later_modules():
    """Stopping early skips the rest."""
    model = tiny_model()
    ids, mask = model.encode(["Rob."])
    with (
        replace_output(model.module("attention", 0), torch.zeros_like),
        capture(
            outputs={"attention": model.module("attention", 0), "top": model.block(3)},
            stop_after=model.block(1),
        ) as seen,
    ):
        model.hidden(ids, mask)
    assert not seen["attention"].any()
    assert "top" not in seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_update_that_overflows_the_weights_is_refused(dtype):
    """Nothing is written."""
    model = tiny_model(double=False)
    model.hf.to(dtype)
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    one, far = (torch.full((rows, 1), size) for rows, size in ((WIDTH, 1.0), (WIDTH, 1e25)))
    inputs = torch.full((4 * WIDTH, 1), 1e25)
    update = {
        Site("mlp_down", 0): Delta(left=one, right=inputs / 1e25),
        Site("mlp_down", 1): Delta(left=far, right=inputs),
    }
    with pytest.raises(NumericsError, match=r"mlp_down\.01 .*nothing was applied"):
        model.apply(update)
    assert all(torch.equal(value, before[key]) for key, value in model.hf.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_after_an_update_are_those_of_the_updated_model(family):
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(0)
    update = {}
    for site in [Site(name, 2) for name in model.sites]:
        left = torch.randn(model.current(site).shape, generator=generator, dtype=torch.float64)
        update[site] = Delta(left=(0.1 * left).requires_grad_())
    ids, mask = model.encode(["The mother tongue of Rob", "Rob"])
    found = model.hidden_after(update, ids, mask)
    found.sum().backward()
    assert all(bool(delta.left.grad.any()) for delta in update.values())
    before = model.hidden(ids, mask)
    model.apply({site: Delta(left=delta.left.detach()) for site, delta in update.items()})
    expected = model.hidden(ids, mask)
    torch.testing.assert_close(found[mask], expected[mask])
    assert not torch.allclose(before[mask], expected[mask])
