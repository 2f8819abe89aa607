"""Matrices in four bits: rounded as NF4 is defined, right for every reader, refused to every writer."""

from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from analysis.stages.base import Observation
from analysis.stages.functional import FunctionalDrift
from analysis.stages.norms import Norms
from analysis.stages.reference import Reference, UneditedWeights
from analysis.stages.spectra import Spectra
from editors.errors import ConfigError
from editors.models import memory
from editors.models.adapters import LoRA
from editors.models.gradients import check_sites
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.models.modules.four_bits import BLOCK, FourBitLinear, packed_bytes
from editors.updates import Delta, Site, sites_of
from tests.analysis.stages.test_functional import TEXTS
from tests.editors.cases import EDITORS, bits, chance
from tests.tiny import FACTS, FAMILIES, save_tiny, tiny_model

pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")

CPU = torch.device("cpu")
EVERY = pytest.mark.parametrize("family", FAMILIES)
EACH = pytest.mark.parametrize("editor", EDITORS)
SHAPES = [(64, 64), (48, 32), (32, 96), (33, 7), (5, 3), (8, 576)]
"""Rows of a block, shorter ones, longer ones, odd ones; with a last block that is not full."""
EDITED = [Site("mlp_down", 0), Site("mlp_down", 1)]


def linear(out: int, width: int, dtype: torch.dtype = torch.float32) -> nn.Linear:
    module = nn.Linear(width, out, dtype=dtype).requires_grad_(False)
    module.weight.copy_(torch.randn(out, width, generator=torch.Generator().manual_seed(0)))
    return module


def frozen_model(family: str = "llama", edited=EDITED, dtype: torch.dtype = torch.float32) -> Model:
    model = tiny_model(family, double=False)
    model.hf.to(dtype)
    model.freeze(edited, CPU)
    return model


def rounded_twin(model: Model) -> Model:
    """A plain model with the same values."""
    twin = tiny_model(model.name.removeprefix("tiny-"), double=False)
    for site in sites_of(range(model.depth), model.sites):
        twin.write(site, model.weight(*site))
    return twin


# --- one matrix -------------------------------------------------------------------------------------


def quantiles() -> Tensor:
    """NF4 of QLoRA, equation 4 and appendix E: 8 quantiles at or above 0, 8 below, scaled to [−1, 1]."""
    end = 0.5 * (1 - 1 / 32 + 1 - 1 / 30)
    above = norm.ppf(torch.linspace(end, 0.5, 9)[:-1].double().numpy())
    below = -norm.ppf(torch.linspace(end, 0.5, 8)[:-1].double().numpy())
    values = torch.tensor([*above, 0.0, *below], dtype=torch.float64)
    return (values / values.max()).sort().values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_entry_is_the_nearest_quantile_times_the_largest_entry_of_its_block(shape, dtype):
    plain = linear(*shape, dtype=dtype)
    found = FourBitLinear(plain, CPU).weight
    blocks, values = plain.weight.double().flatten().split(BLOCK), quantiles()
    scaled = [(block.abs().max(), block / block.abs().max()) for block in blocks]
    nearest = [scale * values[(entries[:, None] - values).abs().argmin(dim=1)] for scale, entries in scaled]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), torch.cat(nearest).view(shape), rtol=1e-2, atol=1e-4)


def test_values_that_four_bits_hold_stay_as_they_are():
    once = FourBitLinear(linear(16, 64), CPU)
    plain = linear(16, 64)
    plain.weight.copy_(once.weight)
    assert torch.equal(FourBitLinear(plain, CPU).weight, once.weight)


def test_a_matrix_without_any_entry_but_zero_stays_zero():
    plain = linear(8, 32)
    plain.weight.zero_()
    assert not FourBitLinear(plain, CPU).weight.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_linear_map_of_its_dequantised_matrix_in_either_layout(shape):
    plain = linear(*shape)
    transposed = Conv1D(shape[0], shape[1]).requires_grad_(False)
    transposed.weight.copy_(plain.weight.T)
    transposed.bias.copy_(plain.bias)
    module, other = FourBitLinear(plain, CPU), FourBitLinear(transposed, CPU)
    inputs = torch.randn(2, 3, shape[1])
    assert torch.equal(module(inputs), nn.functional.linear(inputs, module.weight, plain.bias))
    assert torch.equal(module(inputs), other(inputs)) and torch.equal(module.weight, other.weight)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of PyTorch's own
def test_its_derivatives_are_those_of_the_linear_map():
    """Backward, twice, and forward."""
    module = FourBitLinear(linear(9, 7, torch.float64), CPU)
    inputs, tangent = torch.randn(2, 4, 7, dtype=torch.float64)
    inputs.requires_grad_()
    assert torch.autograd.gradcheck(module, inputs) and torch.autograd.gradgradcheck(module, inputs)
    _, along = torch.func.jvp(module, (inputs.detach(),), (tangent,))
    torch.testing.assert_close(along, tangent @ module.weight.T)


def test_it_takes_half_a_byte_per_entry_and_a_scale_per_block():
    for out, width in SHAPES:
        module = FourBitLinear(linear(out, width), CPU)
        assert sum(buffer.nbytes for buffer in module.buffers()) == packed_bytes(out * width)
        assert [name for name, _ in module.named_parameters()] == ["bias"]


# --- a model ----------------------------------------------------------------------------------------


@EVERY
def test_a_model_in_four_bits_is_one_whose_matrices_went_there_and_back(family):
    """In every family: the same hidden states, and the same matrices for every reader of one."""
    model = frozen_model(family)
    twin = rounded_twin(model)
    ids, mask = model.encode([fact.statement for fact in FACTS])
    torch.testing.assert_close(model.hidden(ids, mask), twin.hidden(ids, mask), rtol=1e-5, atol=1e-5)
    for site in sites_of(range(model.depth), model.sites):
        assert model.is_frozen(site) == (site not in EDITED)
        assert torch.equal(model.weight(*site), twin.weight(*site))
        assert torch.equal(model.current(site), twin.current(site))
        assert torch.equal(model.master(site), twin.master(site))


@EACH
def test_every_editor_writes_into_it_and_leaves_the_frozen_matrices(editor):
    """Edited matrices are W + Δ, and every other byte is as it was; gradients pass through four bits."""
    model = tiny_model("llama", double=False)
    made = EDITORS[editor](model)
    model.freeze(made.sites, CPU)
    made.prepare(model)
    before, expected = bits(model), chance(model, FACTS[0])
    weights = model.snapshot(made.sites)
    edit = made.edit(model, FACTS[:1])
    model.apply(edit.update)
    assert chance(model, FACTS[0]) > expected
    for site, delta in edit.update.items():
        assert torch.equal(model.current(site), weights[site] + delta.dense().to(weights[site]))
    changed = {key for key, value in model.hf.state_dict().items() if not torch.equal(value, before[key])}
    assert len(changed) == len(made.sites) < len(before)


def test_edits_are_those_of_the_rounded_model():
    model = frozen_model()
    updates = []
    for one in (model, rounded_twin(model)):
        made = EDITORS["memit"](one)
        made.prepare(one)
        updates.append(made.edit(one, FACTS).update)
    for site, delta in updates[0].items():
        torch.testing.assert_close(delta.dense(), updates[1][site].dense(), rtol=1e-3, atol=1e-6)


def test_in_half_precision_edits_add_up_in_float32_masters():
    model = frozen_model(dtype=torch.bfloat16)
    site, start = EDITED[1], model.weight(*EDITED[1]).float()
    small = Delta(left=torch.full_like(start, 1e-5))
    for _ in range(10):
        model.apply({site: small})
    torch.testing.assert_close(model.current(site), start + 1e-4, rtol=0, atol=1e-6)
    assert model.current(site).dtype == torch.float32 and model.weight(*site).dtype == torch.bfloat16
    assert model.weight("attn_q", 0).dtype == torch.bfloat16


def test_norms_spectra_and_functional_drift_are_those_of_the_dequantised_matrices():
    measured = []
    model = frozen_model()
    for one in (model, rounded_twin(model)):
        reference = Reference(one)
        update = {site: Delta(left=0.1 * torch.ones_like(one.weight(*site))) for site in EDITED}
        one.apply(update)
        stages = [Norms(), Spectra(), FunctionalDrift(texts=TEXTS)]
        numbers: dict[str, float] = {}
        for stage in stages:
            stage.prepare(one)
            moment = Observation(
                count=10, total=10, before=9, edited=EDITED, update=update, reference=reference, changes=10
            )
            numbers |= stage.measure(one, moment)
        measured.append(numbers)
    assert {"norm/frobenius/attn_q.03", "norm/frobenius_ratio/static", "norm/distance/mlp_up.02"} <= set(
        measured[0]
    )
    assert measured[0]["norm/frobenius_ratio/static"] == 1
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)


def test_the_reference_copies_no_frozen_matrix():
    """They stay where they are, and an edited one is still compared with what it was."""
    model = frozen_model()
    weights = UneditedWeights(model)
    assert set(weights._copies) == set(EDITED)
    assert torch.equal(weights[Site("attn_o", 2)], model.weight("attn_o", 2))


def test_the_graph_of_a_pass_holds_no_dequantised_matrix():
    counted = []
    model = frozen_model()
    for one in (model, rounded_twin(model)):
        ids, mask = one.encode(["The river. Ada Byron"])
        states = one.embedding(ids).detach().requires_grad_()
        with memory.count_saved(one) as saved:
            one.hf.base_model(inputs_embeds=states, attention_mask=mask.long())
        counted.append(saved.bytes)
    assert counted[0] <= counted[1]


def test_a_digest_tells_four_bits_apart_and_sees_every_code_and_scale():
    digests = {tiny_model("llama", double=False).digest, rounded_twin(frozen_model()).digest}
    for name in ("", "codes", "scales"):
        model = frozen_model()
        module = model.module("attn_q", 2)
        if name:
            getattr(module, name).view(-1)[0] += 1
        digests.add(model.digest)
    assert len(digests) == 5
    assert frozen_model().digest == frozen_model().digest


def test_half_of_a_fused_matrix_cannot_be_frozen():
    """Queries, keys and values of GPT-2 share a module, which stays whole."""
    model = frozen_model("gpt2", [Site("attn_q", 1)])
    free = {site for site in sites_of(range(model.depth), model.sites) if not model.is_frozen(site)}
    assert free == {Site("attn_q", 1), Site("attn_k", 1), Site("attn_v", 1)}


# --- refusals ---------------------------------------------------------------------------------------


def test_nothing_is_written_into_four_bits():
    """One frozen matrix among the changes is named, and no weight is touched."""
    model, site = frozen_model(), Site("mlp_up", 2)
    before = bits(model)
    change = {one: Delta(left=torch.ones_like(model.weight(*one))) for one in (EDITED[0], site)}
    for refused in (
        lambda: model.apply(change),
        lambda: model.write(site, model.weight(*site)),
        lambda: check_sites(model, [site]),
        lambda: LoRA(sites=["mlp_up"], layers=[2]).attach(model),
        lambda: LoRA(sites=["mlp_up"]).check(model),
    ):
        with pytest.raises(ConfigError, match=r"mlp_up\.0. of tiny-llama is in 4 bits \(model.bits=4\)"):
            refused()
    assert not model.masters
    after = model.hf.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def checkpoint(folder: Path, **options: object) -> Checkpoint:
    return Checkpoint(name="tiny", path=str(folder), device="cpu", **({"bits": 4} | options))  # pyright: ignore[reportArgumentType]


@EVERY
def test_a_checkpoint_loads_in_four_bits_but_for_what_changes(family, tmp_path, monkeypatch):
    """The edited matrices are the file's, and the estimate of the size is the size."""
    monkeypatch.setattr(memory, "_BYTES_OF_MODULES", 0)
    folder = save_tiny(family, tmp_path)
    model, whole = checkpoint(folder).load(changed=EDITED), checkpoint(folder, bits=None).load()
    assert all(torch.equal(model.weight(*site), whole.weight(*site)) for site in EDITED)
    assert all(not model.is_frozen(site) for site in EDITED) and model.is_frozen(Site("mlp_down", 2))
    assert model.stored(EDITED[0]) is not None and model.stored(Site("mlp_down", 2)) is None
    tensors = [*model.hf.parameters(), *model.hf.buffers()]
    size = sum(tensor.nbytes for tensor in tensors)
    assert memory.weight_bytes(model.hf.config, torch.float32, EDITED) == size
    assert size < memory.weight_bytes(model.hf.config, torch.float32)
