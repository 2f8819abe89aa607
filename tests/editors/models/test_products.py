"""Products through oneDNN are those of PyTorch up to rounding, and nothing else is touched."""

import pytest
import torch

from editors.models.modules import products
from editors.models.modules.products import onednn_products
from tests.tiny import FAMILIES, tiny_model


def _pass(model: torch.nn.Module, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of some embeddings, and the gradient by these."""
    start = start.clone().requires_grad_()
    logits = model(inputs_embeds=start, use_cache=False).logits
    return logits.detach(), torch.autograd.grad(logits.square().sum(), start)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_those_of_pytorch(family: str, dtype: torch.dtype):
    hf = tiny_model(family, double=dtype == torch.float64).hf
    start = torch.randn(2, 5, hf.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = _pass(hf, start)
    with onednn_products(hf):
        result = _pass(hf, start)
    for one, other in zip(result, expected, strict=True):
        if dtype == torch.float64:
            assert torch.equal(one, other), "only float32 is multiplied in another way"
        else:
            assert float((one - other).norm() / other.norm()) < 1e-5


def test_modules_are_as_before_even_after_an_error():
    hf = tiny_model().hf
    with pytest.raises(KeyError), onednn_products(hf):
        raise KeyError
    assert not any("forward" in vars(module) for module in hf.modules())


def test_a_weight_that_learns_gets_its_gradient_and_a_replaced_forward_is_kept():
    learning, replaced = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)
    kept = replaced.forward = torch.nn.Identity().forward
    modules = torch.nn.Sequential(learning, replaced)
    with onednn_products(modules):
        modules(torch.ones(1, 3)).sum().backward()
        assert replaced.forward == kept
    torch.testing.assert_close(learning.weight.grad, torch.ones(2, 3))


def test_the_products_of_both_directions_go_through_onednn(monkeypatch: pytest.MonkeyPatch):
    rows: list[int] = []
    multiplied = products._multiplied
    monkeypatch.setattr(products, "_multiplied", lambda x, *rest: rows.append(len(x)) or multiplied(x, *rest))
    if not products._available():
        pytest.skip("this build of PyTorch has no oneDNN")
    linear = torch.nn.Linear(3, 2).requires_grad_(False)
    with onednn_products(torch.nn.Sequential(linear)):
        linear(torch.ones(4, 3, requires_grad=True)).sum().backward()
    assert rows == [4, 4]


def test_factors_are_rounded_to_bfloat16_inside_the_block_alone():
    if not products.has_bfloat16_products():
        pytest.skip("this processor has no products in bfloat16")
    linear = torch.nn.Linear(256, 128, bias=False).requires_grad_(False)
    inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    rounded = (inputs.bfloat16().double() @ linear.weight.bfloat16().double().T).float()
    exact = inputs @ linear.weight.T
    with onednn_products(torch.nn.Sequential(linear), rounded=True):
        torch.testing.assert_close(linear(inputs), rounded)
        torch.testing.assert_close(inputs @ linear.weight.T, exact, msg="other products are exact")
    with onednn_products(torch.nn.Sequential(linear)):
        torch.testing.assert_close(linear(inputs), exact)
