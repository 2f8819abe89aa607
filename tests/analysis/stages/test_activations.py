"""Activations: a plain reading of every module; no change, no move; known changes are seen."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from analysis.inference.texts import TextSet
from analysis.stages.activations import Activations, _norm_metrics
from analysis.stages.base import Measurement, Observation, compare
from editors.errors import ConfigError, DataError
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.updates import Site
from pipeline.data.corpora import TextFile
from tests.paths import SHARED
from tests.tiny import FACTS, FAMILIES, TEXT, tiny_model

LAYER = 1


@dataclass(frozen=True)
class Lines:
    """The tiny models' text."""

    label: str = "three lines"

    def identity(self) -> str:
        return "lines"

    def __iter__(self) -> Iterator[str]:
        return iter(TEXT)


TEXTS = TextSet(corpus=Lines(), tokens=60, longest=25)


def measured(model: Model, edited: Model, **choices: int) -> Measurement:
    return compare([Activations(**({"texts": TEXTS, "rank": 3} | choices))], model, edited)


def scaled(site: str, layer: int, factor: float, family: str = "llama") -> Model:
    model = tiny_model(family)
    model.write(Site(site, layer), factor * model.weight(site, layer))
    return model


def by_hand(model: Model, leading: int) -> dict[str, list[Tensor]]:
    """The output of every sub-module at every counted token, one document at a time, by plain hooks."""
    seen: dict[str, list[Tensor]] = {}
    for ids in TEXTS.read(model):
        handles = []
        for layer in range(model.depth):
            for kind in ("attention", "mlp", "block"):

                def hook(
                    _m: object, _i: object, out: Tensor | tuple, where: str = f"{kind}.{layer:02d}"
                ) -> None:
                    out = out if isinstance(out, Tensor) else out[0]
                    seen.setdefault(where, []).append(out[0, leading:])

                handles.append(model.writer(kind, layer).register_forward_hook(hook))
        model.hf(input_ids=torch.tensor([ids]))
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_a_plain_pass(family: str):
    """An edit that changes nothing gives ratio 1 everywhere."""
    model = tiny_model(family)
    found, plain = measured(model, tiny_model(family)), by_hand(model, leading=1)
    for where, pieces in plain.items():
        norms = torch.cat(pieces).norm(dim=1)
        assert found[f"activation/norm/{where}"] == pytest.approx(float(norms.mean()), rel=1e-5)
        assert found[f"activation/spread/{where}"] == pytest.approx(float(norms.std(correction=0)), rel=1e-4)
        lasts = torch.stack([piece[-1].norm() for piece in pieces])
        assert found[f"activation/last_norm/{where}"] == pytest.approx(float(lasts.mean()), rel=1e-5)
    assert all(value == 1 for key, value in found.items() if "ratio" in key)
    for layer in range(model.depth):
        assert found[f"activation/cosine/block.{layer:02d}"] == pytest.approx(1)
        assert found[f"activation/cka/block.{layer:02d}"] == pytest.approx(1)
        assert found[f"activation/subspace_overlap/block.{layer:02d}"] == pytest.approx(1)
        assert found[f"activation/principal_angle/block.{layer:02d}"] == pytest.approx(0, abs=1e-4)


def test_robust_means_and_the_first_token_are_those_of_a_plain_pass():
    found, plain = measured(tiny_model(), tiny_model()), by_hand(tiny_model(), leading=0)
    for where, pieces in plain.items():
        later = torch.cat([piece[1:] for piece in pieces]).norm(dim=1).double().sort().values
        cut = len(later) // 20
        expected = {
            "median": later.quantile(0.5),
            "trimmed": later[cut : len(later) - cut].mean(),
            "first_norm": torch.stack([piece[0].norm() for piece in pieces]).mean(),
            "everywhere": torch.cat(pieces).norm(dim=1).mean(),
        }
        for name, value in expected.items():
            assert found[f"activation/{name}/{where}"] == pytest.approx(float(value), rel=1e-5)
            assert found[f"activation/{name}_ratio/{where}"] == 1


def test_a_sink_that_shrinks_moves_the_mean_everywhere_and_no_other():
    """As an edit might look if the leading tokens are not left out."""
    first, last = (f"activation/{name}_ratio/block.03" for name in ("everywhere", "norm"))
    sample = Activations(texts=TEXTS, rank=3)
    model = tiny_model("llama")
    sample.prepare(model)
    before = sample._unedited[0]
    part = ("block", 3)
    sunk = replace(before, everywhere={**before.everywhere, part: before.everywhere[part] / 2})
    ratios = _norm_metrics(before, sunk)
    assert ratios[first] == 0.5 and ratios[last] == ratios["activation/median_ratio/block.03"] == 1
    assert ratios["activation/everywhere_ratio/late"] < 1 == ratios["activation/norm_ratio/late"]


@pytest.mark.parametrize("family", FAMILIES)
def test_input_and_sub_modules_add_up_to_the_last_block(family: str):
    """Their shares add up to 1."""
    model = tiny_model(family)
    plain = by_hand(model, leading=0)
    parts = [torch.cat(v) for k, v in plain.items() if not k.startswith("block")]
    inputs = torch.cat([torch.cat(plain["block.00"]) - torch.cat(plain[f"{k}.00"]) for k in ("mlp",)])
    inputs = inputs - torch.cat(plain["attention.00"])
    torch.testing.assert_close(
        inputs + torch.stack(parts).sum(dim=0), torch.cat(plain[f"block.{model.depth - 1:02d}"])
    )
    shares = {k: v for k, v in measured(model, tiny_model(family)).items() if "/share/" in k}
    assert len(shares) == 2 * model.depth + 1
    assert sum(shares.values()) == pytest.approx(1)


def test_a_doubled_matrix_doubles_its_module_and_nothing_below_it():
    found = measured(tiny_model("llama"), scaled("mlp_down", LAYER, 2.0))
    assert found[f"activation/norm_ratio/mlp.{LAYER:02d}"] == pytest.approx(2, rel=1e-6)
    assert found[f"activation/last_norm_ratio/mlp.{LAYER:02d}"] == pytest.approx(2, rel=1e-6)
    assert found[f"activation/norm_ratio/attention.{LAYER:02d}"] == 1
    assert found["activation/norm_ratio/block.00"] == 1
    assert found[f"activation/cosine/block.{LAYER:02d}"] < 0.9999
    before = measured(tiny_model("llama"), tiny_model("llama"))
    share = f"activation/share/mlp.{LAYER:02d}"
    assert found[share] > before[share]


def test_silencing_the_blocks_leaves_the_embedding_alone_in_the_stream():
    model = tiny_model("llama")
    for layer in range(model.depth):
        for site in ("attn_o", "mlp_down"):
            model.write(Site(site, layer), torch.zeros_like(model.weight(site, layer)))
    found = measured(model, model)
    assert found["activation/share/input.00"] == pytest.approx(1)
    assert found["activation/norm/block.00"] == pytest.approx(found["activation/norm/block.03"])


def test_a_rotation_of_the_stream_is_seen_as_an_angle_and_not_as_a_norm():
    model, turned = tiny_model("gpt2"), tiny_model("gpt2")
    for layer in range(model.depth):  # nothing but the embedding runs through both
        for one in (model, turned):
            for kind in ("attention", "mlp"):
                for parameter in one.module(kind, layer).parameters():
                    parameter.data.zero_()
    turn, _ = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)).double())
    for name in ("wte", "wpe"):
        table = turned.hf.get_submodule(f"transformer.{name}").weight
        table.data = table.data @ turn
    found = measured(model, turned)
    assert found["activation/norm_ratio/block.02"] == pytest.approx(1)
    assert found["activation/cka/block.02"] == pytest.approx(1)
    assert found["activation/subspace_overlap/block.02"] < 0.5
    assert found["activation/principal_angle/block.02"] > 30
    assert abs(float(found["activation/cosine/block.02"])) < 0.5


def test_prompts_of_the_planned_facts_form_a_set_of_their_own():
    model = tiny_model("llama")
    stage = Activations(texts=TextSet(corpus=Lines(), tokens=10), prompts=2)
    stage.prepare(model, FACTS)
    found = stage.measure(scaled("mlp_down", LAYER, 2.0), Observation(count=1, total=3))
    assert found["activation/norm_ratio/prompts.mlp.01"] == pytest.approx(2, rel=1e-6)
    assert {key.split("/")[1] for key in found if "prompts." in key} == {
        key.split("/")[1] for key in found if "prompts." not in key
    }


def test_the_result_depends_on_the_seed_and_not_on_batches():
    model, edited = tiny_model("llama"), scaled("mlp_down", LAYER, 3.0)
    whole = measured(model, edited, compared=20)
    for key, value in measured(model, edited, compared=20, batch_tokens=1).items():
        assert value == pytest.approx(whole[key], rel=1e-6), key
    assert measured(model, edited, compared=20, seed=1) != whole


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match=r"stage\.activations\.compared=1.*at least 2"):
        Activations(texts=TEXTS, compared=1)
    with pytest.raises(DataError, match="9999"):
        Activations(texts=TextSet(corpus=Lines(), tokens=9999)).prepare(tiny_model())


@pytest.mark.shared
def test_real_text_on_a_pretrained_model():
    text, folder = SHARED / "data/wikitext2/test.txt", SHARED / "models/stories260k"
    if not text.exists() or not folder.exists():
        pytest.skip(f"no real text or model in {SHARED}")
    model = Checkpoint(name="stories", path=str(folder), device="cpu").load()
    texts = TextSet(corpus=TextFile(path=str(text)), tokens=3000)
    same = compare([Activations(texts=texts)], model, model)
    assert same["activation/norm_ratio/late"] == 1
    # leading tokens are sinks whose norms are far from those of all others
    with_sinks = compare([Activations(texts=texts, leading=0)], model, model)
    assert with_sinks["activation/spread/block.03"] > same["activation/spread/block.03"]
