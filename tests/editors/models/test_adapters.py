"""Adapters compute what their merged weights compute, and leave no trace."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from editors.errors import ConfigError, NumericsError
from editors.models.adapters import Adapters, LoRA
from editors.models.model import Model
from editors.updates import Site
from tests.editors.cases import bits, same_bits
from tests.tiny import FACTS, FAMILIES, tiny_model

EVERY = pytest.mark.parametrize("family", FAMILIES)
SITES = ("attn_q", "attn_o", "mlp_up", "mlp_down")


def attached(model: Model, **changes: object) -> Adapters:
    """Adapters whose B is no longer zero."""
    adapters = LoRA(**({"rank": 3, "alpha": 6.0, "sites": SITES} | changes)).attach(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += 0.1 * noise
    return adapters


def said(model: Model) -> torch.Tensor:
    ids, mask = model.encode([fact.statement for fact in FACTS])
    return model.logits(model.hidden(ids, mask))[mask]


def trained(adapters: Adapters) -> list[torch.Tensor]:
    """A and B after a step on the model's own answers."""
    adam = torch.optim.Adam(adapters.parameters(), lr=0.01)
    said(adapters.model).logsumexp(dim=-1).sum().backward()
    adam.step()
    adam.zero_grad()
    return [parameter.detach().clone() for parameter in adapters.parameters()]


@EVERY
def test_merged_weights_say_what_the_adapters_say(family):
    model = tiny_model(family)
    plain = said(model)
    adapters = attached(model)
    expected = said(model)
    assert (expected - plain).abs().max() > 1e-3
    with adapters.merged() as merged:
        assert merged is model
        found = said(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@EVERY
def test_while_merged_the_model_is_a_plain_one_with_the_sum_in_its_weights(family):
    model = tiny_model(family)
    kinds = [(name, type(module)) for name, module in model.hf.named_modules()]
    keys = list(model.hf.state_dict())
    before = {site: model.weight(*site).clone() for site in [Site(name, 1) for name in model.sites]}
    adapters = attached(model)
    with adapters.merged():
        assert [(name, type(module)) for name, module in model.hf.named_modules()] == kinds
        assert list(model.hf.state_dict()) == keys
        assert not any(parameter.requires_grad for parameter in model.hf.parameters())
        products = adapters.products()
        for site, weight in before.items():
            expected = weight + products[site].dense() if site in products else weight
            torch.testing.assert_close(model.weight(*site), expected)
            assert site in products or torch.equal(model.weight(*site), weight)


@EVERY
def test_a_temporary_merge_leaves_no_trace(family):
    """Training continues afterwards."""

    def steps(interrupted: bool) -> list[torch.Tensor]:
        adapters = attached(tiny_model(family))
        adapters.peft.train()
        trained(adapters)
        if interrupted:
            with adapters.merged() as model:
                assert not any(module.training for module in model.hf.modules())
        assert all(module.training for module in adapters.model.hf.modules())
        return trained(adapters)

    model = tiny_model(family)
    adapters = attached(model)
    before, pointers = bits(model), [p.data_ptr() for p in model.hf.parameters()]
    with adapters.merged():
        pass
    assert same_bits(model, before) and list(before) == list(model.hf.state_dict())
    assert pointers == [p.data_ptr() for p in model.hf.parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = steps(False)
        torch.manual_seed(0)
        other = steps(True)
    assert all(map(torch.equal, one, other))


@EVERY
@pytest.mark.parametrize("keep", [True, False])
def test_merging_or_detaching_leaves_a_plain_model(family, keep):
    model = tiny_model(family)
    before = bits(model)
    kinds, own = [(n, type(m)) for n, m in model.hf.named_modules()], set(vars(model.hf))
    adapters = attached(model)
    products, sites = adapters.products(), adapters.sites
    weights = {site: model.weight(*site).clone() for site in sites}
    adapters.merge() if keep else adapters.detach()
    assert [(n, type(m)) for n, m in model.hf.named_modules()] == kinds and set(vars(model.hf)) == own
    assert list(model.hf.state_dict()) == list(before)
    assert not model.hf.training and not any(p.requires_grad for p in model.hf.parameters())
    for site in sites:
        change = products[site].dense() if keep else 0.0
        assert torch.equal(model.weight(*site), weights[site] + change)
    assert keep or same_bits(model, before)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_matrices_of_one_module_are_adapted_together(family):
    model = tiny_model(family)
    adapters = attached(model, sites=["attn_v"], layers=[2, 0])
    names = ("attn_q", "attn_k", "attn_v")
    assert adapters.sites == [Site(name, layer) for layer in (0, 2) for name in names]
    norms, products = adapters.norms(), adapters.products()
    one = [products[Site(name, 2)] for name in names]
    assert all(torch.equal(delta.right, one[0].right) for delta in one)
    assert not torch.equal(one[0].left, one[1].left)
    assert norms["A"][Site("attn_q", 2)] == norms["A"][Site("attn_k", 2)]
    a, b = (parameter.detach() for parameter in adapters.parameters()[2:])
    whole = sum(norms["B"][Site(name, 2)] ** 2 for name in names) ** 0.5
    assert whole == pytest.approx(float(b.norm())) and len(adapters.parameters()) == 4
    whole = sum(norms["change"][Site(name, 2)] ** 2 for name in names) ** 0.5
    assert whole == pytest.approx(2.0 * float((b @ a).norm()))


def test_elsewhere_each_matrix_has_its_own():
    adapters = LoRA(sites=["attn_v", "attn_q"]).attach(tiny_model("llama"))
    assert adapters.sites[:3] == [Site("attn_q", 0), Site("attn_v", 0), Site("attn_q", 1)]
    assert len(adapters.sites) == 8


@EVERY
def test_while_attached_weights_are_those_without_the_adapters(family):
    model = tiny_model(family)
    before = {site: model.weight(*site).clone() for site in (Site("attn_q", 1), Site("mlp_down", 3))}
    attached(model)
    assert all(torch.equal(model.weight(*site), weight) for site, weight in before.items())


def test_a_seed_gives_the_same_adapters_and_global_random_state_stays():
    def start(seed: int, initialisation: str) -> list[torch.Tensor]:
        return LoRA(seed=seed, initialisation=initialisation).attach(tiny_model()).parameters()

    state = torch.get_rng_state()
    one, same, other, normal = (
        start(1, "default"),
        start(1, "default"),
        start(2, "default"),
        start(1, "gaussian"),
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, one, same))
    assert not torch.equal(one[0], other[0]) and not torch.equal(one[0], normal[0])
    assert not one[1].any() and not normal[1].any()


def test_only_adapters_are_trained_and_dropout_is_theirs_alone():
    model = tiny_model()
    adapters = attached(model, dropout=0.5)
    wanted = {id(parameter) for parameter in adapters.parameters()}
    assert {id(p) for p in model.hf.parameters() if p.requires_grad} == wanted
    plain = said(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapters.train()
        assert not model.block(0).training and not torch.equal(said(model), plain)
    adapters.train(False)
    assert torch.equal(said(model), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_sum_is_kept_in_float32(dtype):
    model, site = tiny_model(double=False), Site("mlp_down", 1)
    model.hf.to(dtype)
    adapters = attached(model)
    assert all(parameter.dtype == torch.float32 for parameter in adapters.parameters())
    weight, change = model.weight(*site).float(), adapters.products()[site].dense()
    with adapters.merged():
        assert torch.equal(model.current(site), weight + change)
        assert torch.equal(model.weight(*site), (weight + change).to(dtype))
    assert model.masters == {} and torch.equal(model.current(site), weight.to(dtype))
    adapters.merge()
    assert torch.equal(model.current(site), weight + change)


def test_a_sum_that_is_no_number_is_refused_and_nothing_has_changed():
    model = tiny_model()
    adapters = attached(model)
    adapters.parameters()[-1].data.fill_(float("nan"))
    before = bits(model)
    for merge in (adapters.merge, adapters.merged().__enter__):
        with pytest.raises(NumericsError, match=r"mlp_down\.03"):
            merge()
        assert same_bits(model, before) and list(model.hf.state_dict()) == list(before)


def test_saved_adapters_are_safetensors_that_peft_reads(tmp_path: Path):
    from peft import PeftModel

    adapters = attached(tiny_model())
    adapters.save(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert len(stored) == len(adapters.parameters())
    model = tiny_model()
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        PeftModel.from_pretrained(model.hf, str(tmp_path))
    torch.testing.assert_close(said(model), said(adapters.model))


def test_adapters_larger_than_the_memory_are_refused_before_they_are_made():
    model = tiny_model(double=False)
    with pytest.raises(ConfigError, match=r"rank=1000000000 needs [\d,.]+ GiB, but cpu has"):
        LoRA(rank=10**9).attach(model)
    LoRA(rank=3).attach(model).detach()


def test_the_copies_of_which_norms_are_taken_belong_to_the_estimate(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(double=False)
    needed: list[int] = []
    monkeypatch.setattr("editors.models.adapters.check_fits", lambda thing, size, *_: needed.append(size))
    LoRA(rank=7, sites=["attn_o", "mlp_up"]).attach(model)
    out, width, blocks = 128, 32, 4
    kept = 16 * 7 * blocks * ((width + width) + (out + width))
    assert needed == [kept + 12 * 7 * (out + width) + 24 * 7**2]


def test_the_norm_of_an_adapter_of_huge_rank_needs_no_matrix_of_that_rank():
    adapters = attached(tiny_model(double=False), rank=10**5, sites=["attn_o"], layers=[1])
    (site,) = adapters.sites
    expected = adapters.products()[site].dense().double().norm()  # 80 GB as a matrix of rank × rank
    assert adapters.norms()["change"][site] == pytest.approx(float(expected), rel=1e-4)


def test_what_cannot_be_is_refused_by_a_sentence():
    for field, value in {"rank": 0, "alpha": -1.0, "dropout": 1.0}.items():
        with pytest.raises(ConfigError, match=f"{field}={value}"):
            LoRA(**{field: value})
    with pytest.raises(ConfigError, match="sites is empty"):
        LoRA(sites=[])
    with pytest.raises(ConfigError, match=r"sites .*mlp_gate.* tiny-gpt2 .*attn_q"):
        LoRA(sites=["mlp_gate"]).attach(tiny_model())
    with pytest.raises(ConfigError, match=r"layers=\[9\].*4 blocks"):
        LoRA(layers=[9]).attach(tiny_model())
    model = tiny_model()
    LoRA().attach(model)
    with pytest.raises(ConfigError, match="has adapters already"):
        LoRA().attach(model)
