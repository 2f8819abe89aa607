"""Probes on models whose blocks were changed in a known way, on samples whose documents are known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.inference.residuals import SamplePositions, residuals
from analysis.inference.texts import Document, TextSet
from analysis.stages.base import Measurement, Observation
from analysis.stages.probes import stage as probes
from analysis.stages.probes.logistic import BatchedLogistic
from analysis.stages.probes.sampling import draw
from analysis.stages.probes.stage import Probes, select_pairs, shuffled_labels
from analysis.statistics.intervals import cluster_bootstrap
from editors.errors import ConfigError
from editors.models.loading import Checkpoint
from editors.models.model import Model
from editors.updates import Site
from pipeline.data.corpora import TextFile
from pipeline.data.world.builtin import BuiltInCheckpoint
from pipeline.data.world.datasets import WorldText
from tests.paths import SHARED
from tests.sklearn_logistic import SklearnLogistic
from tests.tiny import TEXT, tiny_model

START = Observation(count=0, total=1)
SITE = Site("mlp_down", 1)


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Sentences:
    """Documents that begin at every word of a text."""

    label: str = "sentences"

    def identity(self) -> str:
        return self.label

    def __iter__(self) -> Iterator[str]:
        words = " ".join(TEXT).split()
        return (" ".join(words[i:] + words[:i]) for i in range(len(words)))


def stage(**changes: object) -> Probes:
    options = {"texts": TextSet(corpus=Sentences(), tokens=600, longest=24), "samples": 160} | changes
    return Probes(**options)  # type: ignore[arg-type]


def numbers(found: Measurement) -> dict[str, float]:
    return {key: value for key, value in found.items() if isinstance(value, float)}


def table(found: Measurement) -> pd.DataFrame:
    rows = found["probes"]
    assert isinstance(rows, pd.DataFrame)
    return rows


@pytest.fixture(scope="module")
def knowing() -> Model:
    return BuiltInCheckpoint(name="tiny-gpt2").load()


def test_an_unedited_model_scores_as_before():
    """Direct probes cannot tell it from itself."""
    model, probing = tiny_model(), stage()
    probing.prepare(model)
    found = numbers(probing.measure(model, START))
    assert found["probe/accuracy/mean"] == found["probe/unedited/mean"]
    assert [found[f"probe/direct/block.{block:02d}"] for block in range(4)] == [0.5] * 4
    assert found["probe/direct/mean"] == 0.5
    assert found["probe/accuracy_low/mean"] < found["probe/accuracy/mean"] < found["probe/accuracy_high/mean"]
    assert found["probe/change_low/mean"] == found["probe/change_high/mean"] == 0


def test_each_pair_has_a_key_and_a_row():
    """Shuffled labels are measured once."""
    model, probing = tiny_model(), stage()
    probing.prepare(model)
    observation = Observation(count=7, before=6, total=9, edited=[SITE])
    first, second = probing.measure(model, START), probing.measure(model, observation)
    rows = table(second)
    assert list(rows.columns) == [
        *(
            "count",
            "unit",
            "part",
            "first",
            "second",
            "accuracy",
            "low",
            "high",
            "change_low",
            "change_high",
            "unedited",
            "norm_only",
            "shuffled",
        )
    ]
    assert (rows["count"] == 7).all()
    for row in rows.itertuples():
        assert second[f"probe/accuracy/{row.first:02d}-{row.second:02d}"] == row.accuracy
    touched = rows[(rows["first"] == 1) | (rows["second"] == 1)]
    assert second["probe/accuracy/edited"] == pytest.approx(touched["accuracy"].mean())
    assert first.keys() - second.keys() == {"probe/shuffled/mean"}
    assert second.keys() - first.keys() == {"probe/accuracy/edited"}


def test_training_every_block_leaves_no_mean_of_edited_pairs():
    """A later part of a run starts with a changed model."""
    model, probing = tiny_model(), stage()
    probing.prepare(model)
    model.write(SITE, 5 * model.weight(*SITE))
    every = [Site("mlp_down", block) for block in range(model.depth)]
    found = probing.measure(model, Observation(count=0, total=3, unit="steps", part=1, edited=every))
    assert "probe/accuracy/edited" not in found
    assert set(table(found)["unit"]) == {"steps"} and set(table(found)["part"]) == {1}
    assert found["probe/direct/block.01"] > 0.8


def test_direct_probes_detect_an_edited_block_and_none_below_it():
    model, probing = tiny_model(), stage()
    probing.prepare(model)
    model.write(SITE, 5 * model.weight(*SITE))
    found = numbers(probing.measure(model, Observation(count=1, total=1, edited=[SITE])))
    assert found["probe/direct/block.00"] == 0.5
    assert found["probe/direct/block.01"] > 0.8


def planted(monkeypatch: pytest.MonkeyPatch, change: object) -> tuple[Measurement, Measurement]:
    """Measurements before and after the residual stream of the last block was changed."""
    model, probing = tiny_model(), stage()
    probing.prepare(model)
    before = probing.measure(model, START)
    original = residuals

    def changed(*args: object, **options: object) -> Tensor:
        found = original(*args, **options)  # type: ignore[arg-type]
        return torch.cat([found[:-1], change(found[-1:])])  # type: ignore[operator]

    monkeypatch.setattr(probes, "residuals", changed)
    return before, probing.measure(model, Observation(count=2, before=1, total=2))


def test_a_rotation_is_seen_by_probes_and_not_by_norm_only_ones(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64))
    before, after = planted(monkeypatch, lambda last: last @ rotation)
    assert (table(after)["norm_only"] == table(before)["norm_only"]).all()
    assert after["probe/accuracy/02-03"] < before["probe/accuracy/02-03"]
    assert after["probe/direct/block.03"] > 0.9


def test_the_interval_of_a_change_leaves_out_pairs_that_did_not_move(monkeypatch: pytest.MonkeyPatch):
    _, after = planted(monkeypatch, lambda last: -last)
    rows, found = table(after), numbers(after)
    moved = rows["second"] == 3
    change = rows["accuracy"] - rows["unedited"]
    assert (rows["change_low"] <= change).all() and (change <= rows["change_high"]).all()
    assert (rows.loc[~moved, ["change_low", "change_high"]] == 0).all(axis=None)
    assert (rows.loc[moved, "change_high"] < 0).all()
    assert found["probe/change_high/mean"] < 0


def test_the_intervals_are_those_of_the_held_out_documents():
    model, probing = tiny_model(), stage()
    probing.prepare(model)
    found = probing.measure(model, START)
    rows, held = table(found), probing._sample.held
    vectors = probing._activations(model)[:, probing._sample.training :]
    first = BatchedLogistic().fit(probing._activations(model)[:, : probing._sample.training], [(0, 1)])
    hits = first.hits(vectors)[0].split(list(held))
    sums = np.array([[float(part.sum())] for part in hits])
    low, high = cluster_bootstrap(sums, 2 * np.array(held), seed=0)
    assert len(held) > 1 and sum(held) == vectors.shape[1]
    assert (rows["low"][0], rows["high"][0]) == pytest.approx((low[0], high[0]))
    assert low[0] < rows["accuracy"][0] < high[0]


def test_one_held_out_document_gives_no_interval():
    model, probing = tiny_model(), stage(held_out=0.01)
    probing.prepare(model)
    found = probing.measure(model, START)
    assert "probe/accuracy/mean" in found and not any("_low" in key or "_high" in key for key in found)
    assert table(found)["low"].isna().all()


def test_a_change_of_scale_is_seen_by_norm_only_probes(monkeypatch: pytest.MonkeyPatch):
    before, after = planted(monkeypatch, lambda last: 0.01 * last)
    assert after["probe/norm_only/mean"] < before["probe/norm_only/mean"] - 0.05
    assert after["probe/accuracy/00-01"] == before["probe/accuracy/00-01"]


def test_a_block_that_overflowed_needs_no_direct_probe(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its samples count as misclassified by the layer-pair probes."""
    before, after = planted(monkeypatch, lambda last: torch.full_like(last, torch.nan))
    assert before.keys() - after.keys() == {"probe/shuffled/mean"}
    assert after["probe/direct/block.03"] == 1 and after["probe/direct/block.02"] == 0.5
    assert after["probe/direct/mean"] == (3 * 0.5 + 1) / 4
    assert "no direct probe of blocks [3]" in caplog.text
    assert isinstance(after["probe/accuracy/02-03"], float) and after["probe/accuracy/02-03"] <= 0.5


def test_shuffled_labels_teach_nothing(knowing: Model):
    probing = Probes(texts=TextSet(corpus=WorldText()))
    probing.prepare(knowing)
    found = numbers(probing.measure(knowing, START))
    assert found["probe/shuffled/mean"] == pytest.approx(0.5, abs=0.05)
    assert found["probe/unedited/mean"] > 0.95


@pytest.mark.parametrize("samples", [1000, 2000])
def test_both_solvers_agree_on_a_built_in_model(knowing: Model, samples: int):
    found = []
    for solver in (BatchedLogistic(), SklearnLogistic()):
        probing = Probes(texts=TextSet(corpus=WorldText()), samples=samples, solver=solver)
        probing.prepare(knowing)
        found.append(table(probing.measure(knowing, START)))
    ours, theirs = found
    assert (ours["accuracy"] - theirs["accuracy"]).abs().max() <= 0.005
    assert (ours["norm_only"] - theirs["norm_only"]).abs().max() <= 0.005


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    runs = []
    for seed in (0, 0, 1):
        model, probing = tiny_model(), stage(seed=seed)
        probing.prepare(model)
        runs.append(table(probing.measure(model, START)))
    assert runs[0].equals(runs[1])
    assert not runs[0].equals(runs[2])


def test_weights_mode_hooks_and_random_state_stay_as_they_were():
    model, probing = tiny_model(), stage()
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    state = torch.random.get_rng_state()
    probing.prepare(model)
    probing.measure(model, START)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.hf.state_dict().items())
    assert not model.hf.training
    assert not any(module._forward_hooks for module in model.hf.modules())


# --- samples ---------------------------------------------------------------------------------------------


def documents(*lengths: int) -> list[Document]:
    """Token ids that tell the document and the position."""
    return [tuple(100 * i + k for k in range(length)) for i, length in enumerate(lengths)]


def drawn_tokens(texts: Sequence[Document], **changes: float) -> tuple[list[int], list[int]]:
    """Tokens of training and testing."""
    options = {"samples": 20, "per_document": 3, "held_out": 0.25, "seed": 0} | changes
    sample = draw(texts, **options)  # type: ignore[arg-type]
    rows = zip(sample.documents, sample.positions.positions, strict=True)
    tokens = [document[position] for document, positions in rows for position in positions]
    return tokens[: sample.training], tokens[sample.training :]


@pytest.mark.parametrize("seed", range(5))
def test_documents_are_split_and_tokens_drawn_once(seed: int):
    """No document is on both sides; first tokens are never drawn."""
    training, testing = drawn_tokens(documents(*[9] * 10), seed=seed)
    assert len({*training, *testing}) == 20
    assert not {token // 100 for token in training} & {token // 100 for token in testing}
    assert all(token % 100 for token in (*training, *testing))
    assert len({token // 100 for token in testing}) == 2


def test_documents_are_cut_after_the_last_drawn_token():
    """Documents without a drawn token are left out."""
    sample = draw(documents(*[9] * 50), samples=20, per_document=4, held_out=0.5, seed=0)
    assert len(sample.documents) == 5
    for document, positions in zip(sample.documents, sample.positions.positions, strict=True):
        assert len(document) == positions[-1] + 1


def test_few_documents_give_more_tokens_each_and_short_ones_what_they_have():
    training, testing = drawn_tokens(documents(2, 2, 30, 30), samples=22)
    counts = [sum(token // 100 == i for token in (*training, *testing)) for i in range(4)]
    assert counts == [1, 1, 10, 10]


def test_a_cut_document_leaves_the_same_vectors():
    model = tiny_model()
    texts = TextSet(corpus=Sentences(), tokens=100, longest=24).read(model)
    places = SamplePositions([[2, 5]] * len(texts))
    whole, cut = (residuals(model, rows, places) for rows in (texts, [text[:6] for text in texts]))
    torch.testing.assert_close(whole, cut)


def test_half_of_the_shuffled_labels_are_true():
    """Each problem has an order of its own."""
    labels = shuffled_labels(3, 50, seed=0)
    assert labels.flatten(1).sum(dim=1).tolist() == [50, 50, 50]
    assert not torch.equal(labels[0], labels[1])


# --- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "pairs"),
    [
        ("all", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ("adjacent", [(0, 1), (1, 2), (2, 3)]),
        ("edited", [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]),
        ([[3, 0], [0, 1], [3, 0]], [(0, 3), (0, 1)]),
    ],
)
def test_pairs_are_those_that_an_option_names(choice: str | list, pairs: list[tuple[int, int]]):
    assert list(select_pairs(choice, tiny_model(), edited=[1, 2])) == pairs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pairs": [[0, 4]]}, r"pairs=\[0, 4\] but tiny-gpt2 has 4 blocks \(0\.\.3\)"),
        ({"pairs": [[-1, 2]]}, r"pairs=\[-1, 2\] but tiny-gpt2 has 4 blocks"),
        ({"pairs": [[2, 2]]}, r"holds \[2, 2\], but a pair is two different blocks"),
        ({"pairs": [[0, 1, 2]]}, r"holds \[0, 1, 2\], but a pair is two different blocks"),
        ({"pairs": []}, r"pairs=\[\] names no pair"),
        ({"pairs": "edited", "edited": [7]}, r"stage\.probes\.edited=\[7\] but tiny-gpt2 has 4 blocks"),
        ({"pairs": "edited"}, r"stage\.probes\.edited is empty"),
        ({"samples": 5000}, r"samples=5000, but the texts have only \d+ tokens .* raise text\.tokens"),
        ({"samples": 6}, r"samples=6 come from one document"),
    ],
)
def test_impossible_options_are_refused_before_any_forward_pass(
    changes: dict, sentence: str, monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model()
    monkeypatch.setattr(model, "hidden", None)
    with pytest.raises(ConfigError, match=sentence):
        stage(**changes).prepare(model)


@pytest.mark.parametrize(
    "changes", [{"pairs": "some"}, {"held_out": 1.0}, {"held_out": 0.0}, {"samples": 1}, {"per_document": 0}]
)
def test_senseless_options_are_refused(changes: dict):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        stage(**changes)


@pytest.mark.shared
def test_both_solvers_agree_on_a_pretrained_model_and_real_text():
    texts, folder = SHARED / "data/wikitext2/test.txt", SHARED / "models/stories260k"
    if not (texts.exists() and folder.exists()):
        pytest.skip("no shared data")
    model = Checkpoint(name="stories260k", path=str(folder)).load()
    found = []
    for solver in (BatchedLogistic(), SklearnLogistic()):
        probing = Probes(texts=TextSet(corpus=TextFile(path=str(texts)), tokens=20_000), solver=solver)
        probing.prepare(model)
        found.append(table(probing.measure(model, START)))
    assert (found[0]["accuracy"] - found[1]["accuracy"]).abs().max() <= 0.005
    assert found[0]["accuracy"].min() > 0.75
    assert found[0]["shuffled"].mean() == pytest.approx(0.5, abs=0.05)
