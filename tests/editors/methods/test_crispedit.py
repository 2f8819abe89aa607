"""CrispEdit moves only where the loss on text hardly bends, and knows what it has edited."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from editors.errors import ConfigError, DataError, NumericsError
from editors.methods.crispedit.curvature import Curvature, TextCurvature, add_tokens
from editors.methods.crispedit.editor import CrispEdit
from editors.models.gradients import read_text
from editors.models.model import Model
from editors.models.tokenization import tokenize
from editors.updates import Site
from tests.editors.cases import curvatures, make_crispedit, make_finetuning, perform
from tests.tiny import FACTS, FAMILIES, TEXT, tiny_model

SITE = Site("mlp_down", 1)


@dataclass
class Listed:
    """Some texts as a corpus, which can be forbidden to be read."""

    texts: tuple[str, ...] = TEXT
    unread: bool = False
    label: str = "a list"

    def identity(self) -> str:
        return "listed"

    def __iter__(self) -> Iterator[str]:
        assert not self.unread
        return iter(self.texts)


def text_curvature(folder: Path, **changes: object) -> TextCurvature:
    return TextCurvature(**({"corpus": Listed(), "documents": 9, "folder": str(folder)} | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_factors_are_those_of_one_text_after_another_by_plain_autograd(family: str):
    model = tiny_model(family)
    found = curvatures(model, [SITE])[SITE]
    shape = model.current(SITE).shape
    inputs, outputs, count = torch.zeros(shape[1], shape[1]), torch.zeros(shape[0], shape[0]), 0
    for text in TEXT:
        ids = torch.tensor([tokenize(model.tokenizer, text).ids])
        kept: dict[str, torch.Tensor] = {}

        def hook(_module, given, output, kept=kept):
            kept["key"], kept["output"] = given[0], output.requires_grad_()

        with torch.enable_grad():
            handle = model.module(*SITE).register_forward_hook(hook)
            logits = model.hf(ids, use_cache=False).logits[0]
            handle.remove()
            loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, kept["output"])
        keys, gradients = kept["key"][0, :-1].detach(), gradient[0, :-1]
        inputs, outputs = inputs + keys.T @ keys, outputs + gradients.T @ gradients
        count += len(keys)
    torch.testing.assert_close(found.inputs.matrix, inputs / count)
    torch.testing.assert_close(found.outputs.matrix, outputs / count)


def test_the_losses_of_texts_are_those_of_the_whole_model():
    model = tiny_model()
    rows = [tokenize(model.tokenizer, text).ids for text in TEXT]
    losses = read_text(model, rows, 2).evaluate([SITE]).losses
    for row, loss in zip(rows, losses, strict=True):
        ids = torch.tensor([row])
        said = model.hf(ids, use_cache=False).logits[0, :-1]
        whole = torch.nn.functional.cross_entropy(said, ids[0, 1:], reduction="sum")
        torch.testing.assert_close(loss.detach(), whole.detach())


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95])
def test_a_projection_keeps_less_than_the_rest_of_the_curvature_and_one_more_would_not(energy: float):
    text = curvatures(tiny_model(), [SITE])[SITE]
    projection = text.projection(energy)
    a = torch.linalg.eigvalsh(text.inputs.matrix)
    b = torch.linalg.eigvalsh(text.outputs.matrix)
    curvature = torch.outer(b, a)
    left = curvature[projection.free].sum()
    assert left <= (1 - energy) * curvature.sum() < left + curvature[~projection.free].min()
    assert curvature[projection.free].max() < curvature[~projection.free].min()


def test_projecting_twice_is_projecting_once_and_the_rest_is_orthogonal():
    projection = curvatures(tiny_model(), [SITE])[SITE].projection(0.8)
    gradient = torch.randn(
        projection.free.shape, generator=torch.Generator().manual_seed(0), dtype=torch.double
    )
    once = projection(gradient)
    torch.testing.assert_close(projection(once), once)
    assert abs(float((once * (gradient - once)).sum())) < 1e-10
    assert 0 < once.norm() < gradient.norm()


def test_an_edit_bends_the_loss_on_text_less_than_one_of_ft_m_as_long():
    model = tiny_model()
    text = curvatures(model, [SITE])[SITE]

    def bend(editor) -> float:
        editor.prepare(model)
        delta = editor.edit(model, FACTS[:1]).update[SITE].dense()
        delta = delta / delta.norm()
        return float((delta.T @ text.outputs.matrix @ delta @ text.inputs.matrix).trace())

    crisp = bend(make_crispedit(model, layers=[1], energy=0.99))
    plain = bend(make_finetuning(model, objective="teacher_forced"))
    assert 0 < crisp < 0.5 * plain


def test_the_curvature_of_edited_facts_is_added_on_the_edited_weights():
    model, made = tiny_model(), make_crispedit(tiny_model(), layers=[1])
    made.prepare(model)
    first = made.edit(model, FACTS[:1]).diagnostics["free_share"]
    perform(model, made, FACTS)
    expected = {SITE: Curvature.zero(model.current(SITE).shape)}
    rows = [tokenize(model.tokenizer, f"{fact.statement} {fact.target_new}").ids for fact in FACTS]
    add_tokens(model, rows, expected)
    torch.testing.assert_close(made._edited[SITE].inputs.matrix, expected[SITE].inputs.matrix)
    torch.testing.assert_close(made._edited[SITE].outputs.matrix, expected[SITE].outputs.matrix)
    assert made.edit(model, FACTS[:1]).diagnostics["free_share"] != first


def test_without_remembering_the_directions_stay():
    model = tiny_model()
    made = make_crispedit(model, layers=[1], remember=False)
    made.prepare(model)
    edits = [made.edit(model, FACTS[:1])]
    perform(model, made, FACTS)
    edits.append(made.edit(model, FACTS[:1]))
    assert edits[0].diagnostics["free_share"] == edits[1].diagnostics["free_share"]
    assert set(made.state_dict()) == {"edits"}


def test_what_was_measured_is_read_back_without_the_corpus(tmp_path: Path):
    model = tiny_model()
    sites = [SITE, Site("mlp_down", 2)]
    first = text_curvature(tmp_path).load(model, sites[:1])
    both = text_curvature(tmp_path).load(model, sites)
    again = text_curvature(tmp_path, corpus=Listed(unread=True)).load(model, sites)
    for site in sites:
        for name, tensor in both[site].tensors().items():
            assert torch.equal(again[site].tensors()[name], tensor)
    assert torch.equal(first[SITE].inputs.total, both[SITE].inputs.total)
    direct = curvatures(model, sites)
    torch.testing.assert_close(both[SITE].outputs.matrix, direct[SITE].outputs.matrix)


@pytest.mark.parametrize("changes", [{"documents": 2}, {"max_tokens": 5}])
def test_other_budgets_are_other_files(tmp_path: Path, changes: dict[str, object]):
    model = tiny_model()
    whole = text_curvature(tmp_path).load(model, [SITE])[SITE]
    less = text_curvature(tmp_path, **changes).load(model, [SITE])[SITE]
    assert less.inputs.count < whole.inputs.count


def test_a_corpus_that_ends_before_the_budget_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    text_curvature(tmp_path).load(tiny_model(), [SITE])
    assert f"the corpus ended after {len(TEXT)} of 9 documents" in caplog.text


def test_texts_of_one_token_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="a list holds no text of two tokens"):
        text_curvature(tmp_path, corpus=Listed(texts=("", " "))).load(tiny_model(), [SITE])


@pytest.mark.parametrize(("changes", "message"), [
    ({"documents": 0}, "editor.curvature.documents=0"),
    ({"max_tokens": 1}, "editor.curvature.max_tokens=1"),
])  # fmt: skip
def test_a_budget_of_nothing_is_refused(tmp_path: Path, changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        text_curvature(tmp_path, **changes)


@pytest.mark.parametrize("energy", [0.0, 1.0, -1.0, float("nan")])
def test_an_energy_that_is_no_share_is_refused(energy: float):
    with pytest.raises(ConfigError, match=r"editor\.energy="):
        make_crispedit(tiny_model(), energy=energy)


def test_the_label_names_the_text(tmp_path: Path):
    made: CrispEdit = make_crispedit(tiny_model(), curvature=text_curvature(tmp_path))
    assert made.statistics == "curvature: 9 documents of a list"


def test_a_loss_on_text_that_is_no_number_is_told(tmp_path: Path):
    model: Model = tiny_model()
    model.weight(*SITE).fill_(float("nan"))
    with pytest.raises(NumericsError, match="the loss on text is nan"):
        text_curvature(tmp_path).load(model, [SITE])
