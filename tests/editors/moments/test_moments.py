"""Second moments: streaming is batch, one pass is many, what is cached is what was asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from editors.errors import ConfigError, DataError, NumericsError
from editors.models.hooks import capture, first_tensor
from editors.models.model import Model
from editors.models.tokenization import pad, tokenize
from editors.moments import streaming as statistics
from editors.moments.collected import CollectedMoments
from editors.moments.moment_sources import SITE, GivenMoments, ImportedMoments, MomentSource, Spectrum
from editors.moments.streaming import Batching, Budget, SecondMoment, Tally, collect
from editors.phases import Phase
from editors.tensor_files import read_metadata
from tests.tiny import FAMILIES, TEXT, tiny_model

WORDS = " ".join(TEXT).split()
DOCUMENTS = [" ".join(WORDS[start : start + 1 + 7 * start % 23]) for start in range(24)]
PARTS = {"documents": 11, "tokens": 250, "tokens_per_width": 2}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Documents of a list; reading breaks off where a person pressed Ctrl-C."""

    texts: Sequence[str] = tuple(DOCUMENTS)
    name: str = "listed"
    breaks_at: int = 10**9

    @property
    def label(self) -> str:
        return self.name

    def identity(self) -> str:
        return self.name

    def __iter__(self) -> Iterator[str]:
        for number, text in enumerate(self.texts):
            if number == self.breaks_at:
                raise KeyboardInterrupt
            yield text


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(double=False)


def make(folder: Path, **changes: object) -> CollectedMoments:
    given = {"corpus": Listed(), "tokens": 250, "folder": str(folder), "window": 4, "batch_tokens": 40}
    return CollectedMoments(**(given | changes))  # pyright: ignore[reportArgumentType]


def passed(model: Model, layers: Sequence[int], budget: Budget, **batching: int) -> Tally:
    return collect(model, DOCUMENTS, budget, Batching(**batching), Tally.start(model, layers))


@torch.no_grad()
def keys_alone(model: Model, layer: int, texts: Sequence[str]) -> Tensor:
    """Keys of documents that are run one by one, without padding."""
    keys = []
    for text in texts:
        ids, mask = pad([tokenize(model.tokenizer, text).ids[: model.max_tokens]])
        with capture(inputs={0: model.module(SITE, layer)}) as seen:
            model.hidden(ids, mask)
        keys.append(seen[0][0])
    return torch.cat(keys)


# --- the sum -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 7, 8, 50])
def test_streaming_gives_the_moment_of_all_keys_at_once(width: int) -> None:
    keys = torch.randn(90, width, generator=torch.Generator().manual_seed(0))
    moment = SecondMoment.zero(width)
    for part in keys.split(13):
        moment.update(part)
    whole = keys.double().T @ keys.double() / 90
    torch.testing.assert_close(moment.matrix, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(moment.matrix, moment.matrix.T)
    assert moment.matrix.dtype == torch.float64


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_padding_nor_batching_nor_the_other_layers_change_a_moment(family: str) -> None:
    model = tiny_model(family)
    together = passed(model, [0, 2], Budget(), batch_tokens=200, window=24)
    for layer in (0, 2):
        keys = keys_alone(model, layer, DOCUMENTS)
        torch.testing.assert_close(
            together.moments[layer].matrix, keys.T @ keys / len(keys), rtol=1e-5, atol=1e-6
        )
        for batch_tokens, window in ((1, 3), (64, 5)):
            alone = passed(model, [layer], Budget(), batch_tokens=batch_tokens, window=window)
            torch.testing.assert_close(
                alone.moments[layer].matrix, together.moments[layer].matrix, rtol=1e-5, atol=1e-6
            )


def test_nothing_above_the_highest_layer_runs_and_no_logits_are_made(model: Model) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    head = model.hf.get_output_embeddings()
    assert head is not None
    handles.append(head.register_forward_hook(lambda *_: ran.append(99)))
    matrix = model.module(SITE, 1)
    handles.append(matrix.register_forward_hook(lambda *_: ran.append(98)))
    passed(model, [0, 1], Budget(documents=3))
    for handle in handles:
        handle.remove()
    assert set(ran) == {0}  # block 1 is left once its keys are known


def test_features_are_summed_in_float32_for_any_precision() -> None:
    half = tiny_model(double=False)
    half.hf.bfloat16()
    seen = passed(half, [1], Budget(documents=4)).moments[1].matrix
    keys = keys_alone(half, 1, DOCUMENTS[:4]).float()
    torch.testing.assert_close(seen, (keys.T @ keys / len(keys)).double(), rtol=0.02, atol=0.02)
    assert seen.dtype == torch.float64


# --- budgets -----------------------------------------------------------------------------------------


def test_a_budget_is_met_exactly(model: Model) -> None:
    assert passed(model, [0], Budget(tokens=101), window=3).tokens == 101
    by_documents = passed(model, [0], Budget(documents=7), window=3)
    assert by_documents.documents == 7
    assert by_documents.tokens == sum(len(tokenize(model.tokenizer, text).ids) for text in DOCUMENTS[:7])


def test_blank_documents_do_not_count_and_long_ones_are_cut(model: Model) -> None:
    texts = ["", DOCUMENTS[5], "", " ".join(WORDS * 3)]
    tally = collect(model, texts, Budget(documents=2), Batching(max_tokens=9), Tally.start(model, [0]))
    assert (tally.documents, tally.read) == (2, 4)
    assert tally.tokens == min(9, len(tokenize(model.tokenizer, DOCUMENTS[5]).ids)) + 9
    long = collect(model, texts[3:], Budget(), Batching(), Tally.start(model, [0]))
    assert long.tokens == model.max_tokens


def test_a_batch_holds_no_more_tokens_than_allowed_and_little_padding() -> None:
    rows = [tuple(range(1 + (7 * i) % 31)) for i in range(100)]
    batches = list(statistics.batches(rows, 64))
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    padded = [max(map(len, batch)) * len(batch) for batch in batches]
    assert max(padded) <= 64
    assert sum(padded) < 1.1 * sum(map(len, rows))


def test_a_corpus_that_ends_before_the_budget_is_told(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    passed(model, [0], Budget(documents=1000))
    assert f"the corpus ended after {len(DOCUMENTS)} documents" in caplog.text


@pytest.mark.parametrize("budget", [{"tokens": 250}, {"tokens": None, "documents": 11}])
def test_the_progress_of_a_pass_is_reported_once_and_a_cache_needs_none(
    model: Model, tmp_path: Path, budget: dict
) -> None:
    phases: list[Phase] = []
    make(tmp_path, **budget).load(model, [0, 1], phases.append)
    counts, (unit, total) = [phase.count for phase in phases], list(budget.items())[-1]
    assert {(phase.total, phase.unit) for phase in phases} == {(total, unit)}
    assert counts[0] == 0 and counts == sorted(set(counts)) and len(counts) > 3 and counts[-1] < total
    cached: list[Phase] = []
    make(tmp_path, **budget).load(model, [0, 1], cached.append)
    assert not cached
    make(tmp_path, **budget).spectra(model, [0, 1], cached.append)
    assert [str(phase) for phase in cached] == [
        f"decomposing second moments: {layer} of 2 layers" for layer in (0, 1)
    ]


def test_exactly_one_budget_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none given of documents, tokens and tokens_per_width"):
        make(tmp_path, tokens=None)
    with pytest.raises(ConfigError, match=r"documents=5, tokens=250 given"):
        make(tmp_path, documents=5)
    with pytest.raises(ConfigError, match=r"moments\.documents=0, but it has to be positive"):
        make(tmp_path, tokens=None, documents=0)


def test_texts_without_a_token_and_keys_that_are_not_finite_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no text"):
        make(tmp_path, corpus=Listed(texts=("", ""))).load(model, [0])
    broken = tiny_model(double=False)
    broken.weight("mlp_up", 1)[0, 0] = torch.inf
    with pytest.raises(NumericsError, match=r"keys of block 1 hold NaN or infinity"):
        make(tmp_path).load(broken, [0, 1])


# --- the cache ---------------------------------------------------------------------------------------


def test_what_was_collected_is_read_back_without_the_corpus(model: Model, tmp_path: Path) -> None:
    first = make(tmp_path).load(model, [0, 1])
    again = make(tmp_path, corpus=Listed(breaks_at=0)).load(model, [1, 0])
    assert all(torch.equal(first[layer], again[layer]) for layer in (0, 1))


def test_another_layer_is_computed_without_the_others(model: Model, tmp_path: Path) -> None:
    make(tmp_path).load(model, [0])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    both = make(tmp_path).load(model, [0, 2])
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    apart = make(tmp_path / "apart").load(model, [0, 2])
    for layer in (0, 2):
        torch.testing.assert_close(both[layer], apart[layer], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": Listed(name="another")},
        {"tokens": 251},
        {"tokens": None, "documents": 250},
        {"tokens": None, "tokens_per_width": 1},
        {"max_tokens": 8},
    ],
)
def test_what_changes_the_numbers_has_another_cache_entry(
    model: Model, tmp_path: Path, changes: dict
) -> None:
    make(tmp_path).load(model, [0])
    make(tmp_path, **changes).load(model, [0])
    assert len(list(tmp_path.iterdir())) == 2


def test_another_model_precision_or_tokenizer_has_another_cache_entry(tmp_path: Path) -> None:
    for model in (tiny_model(), tiny_model(double=False), tiny_model("llama"), tiny_model(kind="bos")):
        make(tmp_path).load(model, [0])
    assert len(list(tmp_path.iterdir())) == 4


def test_how_documents_are_batched_is_not_part_of_the_entry(model: Model, tmp_path: Path) -> None:
    make(tmp_path).load(model, [0])
    make(tmp_path, corpus=Listed(breaks_at=0), window=2, batch_tokens=7).load(model, [0])


def test_a_file_describes_itself(model: Model, tmp_path: Path) -> None:
    make(tmp_path).load(model, [0])
    (path,) = tmp_path.rglob("*.safetensors")
    meta = read_metadata(path, remedy="")
    assert meta["tokens"] == "250"
    assert meta["statistics"] == "250 tokens of listed"
    for part in (model.digest, '"corpus": "listed"', '"format": 2', '"site": "mlp_down"'):
        assert part in meta["description"]


@pytest.mark.parametrize("keep", [0, 5, 300])
def test_a_truncated_file_is_told_and_computed_anew(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: int
) -> None:
    good = make(tmp_path).load(model, [0])[0]
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    assert torch.equal(make(tmp_path).load(model, [0])[0], good)
    assert f"{path} cannot be read" in caplog.text


def test_a_file_of_something_else_is_told_and_computed_anew(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = make(tmp_path / "a").load(model, [0])[0]
    make(tmp_path / "b", corpus=Listed(texts=DOCUMENTS[3:], name="another")).load(model, [0])
    (here,), (foreign,) = ((tmp_path / name).rglob("*.safetensors") for name in "ab")
    here.write_bytes(foreign.read_bytes())
    assert torch.equal(make(tmp_path / "a").load(model, [0])[0], good)
    assert "belongs to another model" in caplog.text


def test_a_model_that_differs_in_one_row_has_moments_of_its_own(model: Model, tmp_path: Path) -> None:
    make(tmp_path).load(model, [0])
    changed = tiny_model(double=False)
    changed.weight("mlp_up", 0)[5] *= 3
    apart = make(tmp_path / "apart").load(changed, [0])[0]
    assert torch.equal(make(tmp_path).load(changed, [0])[0], apart)


@pytest.mark.parametrize("place", [-1, -20_000, 200])
def test_a_file_with_one_flipped_bit_is_told_and_computed_again(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    good = make(tmp_path).load(model, [0])[0]
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert torch.equal(make(tmp_path).load(model, [0])[0], good)
    assert str(path) in caplog.text


def test_the_file_of_another_layer_is_told_and_computed_again(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = make(tmp_path).load(model, [0, 1])
    one, other = sorted(tmp_path.rglob("*.safetensors"))
    other.write_bytes(one.read_bytes())
    again = make(tmp_path).load(model, [1])[1]
    torch.testing.assert_close(again, good[1], rtol=1e-6, atol=1e-7)
    assert "another layer" in caplog.text


def test_a_spectrum_with_one_flipped_bit_is_computed_again(model: Model, tmp_path: Path) -> None:
    good = make(tmp_path).spectra(model, [0])[0]
    (path,) = tmp_path.rglob("*.spectrum.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)
    assert torch.equal(make(tmp_path).spectra(model, [0])[0].vectors, good.vectors)


# --- interruption ------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", PARTS)
def test_an_interrupted_pass_goes_on_to_the_same_bits(model: Model, tmp_path: Path, budget: str) -> None:
    given: dict = {"tokens": None, budget: PARTS[budget], "save_seconds": 0.0}
    straight = make(tmp_path / "straight", **given).load(model, [0, 1])
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "broken", corpus=Listed(breaks_at=9), **given).load(model, [0, 1])
    (partial,) = tmp_path.joinpath("broken").rglob("*.safetensors")
    assert "partial" in partial.name

    counted = []
    handle = model.block(0).register_forward_hook(lambda _m, _i, out: counted.append(len(first_tensor(out))))
    resumed = make(tmp_path / "broken", **given).load(model, [0, 1])
    handle.remove()
    assert all(torch.equal(resumed[layer], straight[layer]) for layer in (0, 1))
    assert sum(counted) < len(DOCUMENTS) - 8, "documents that were counted are not run again"
    assert not partial.exists()


def test_a_torn_partial_file_is_told_and_the_pass_starts_anew(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = make(tmp_path / "straight").load(model, [0])
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, corpus=Listed(breaks_at=9), save_seconds=0.0).load(model, [0])
    (partial,) = tmp_path.rglob("partial*.safetensors")
    partial.write_bytes(partial.read_bytes()[:-8])
    assert torch.equal(make(tmp_path).load(model, [0])[0], straight[0])
    assert "cannot be read" in caplog.text


def test_totals_are_written_only_after_the_given_time(model: Model, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, corpus=Listed(breaks_at=9)).load(model, [0])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_pass_collects_further_blocks_for_the_runs_that_edit_them(model: Model, tmp_path: Path) -> None:
    straight = make(tmp_path / "straight").load(model, [0, 1])
    shared = make(tmp_path / "shared", layers=[0, 1, 2])
    loaded = shared.load(model, [1])
    assert [*loaded] == [1] and torch.equal(loaded[1], straight[1])
    silent_corpus = make(tmp_path / "shared", corpus=Listed(breaks_at=0))
    assert torch.equal(silent_corpus.load(model, [0])[0], straight[0]), "read from the cache"


# --- spectra -----------------------------------------------------------------------------------------


def test_a_spectrum_gives_the_moment_back(model: Model, tmp_path: Path) -> None:
    source = make(tmp_path)
    moment, spectrum = source.load(model, [1])[1], source.spectra(model, [1])[1]
    identity = torch.eye(len(spectrum.values), dtype=torch.float64)
    torch.testing.assert_close(spectrum.vectors.T @ spectrum.vectors, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.vectors * spectrum.values @ spectrum.vectors.T, moment)
    assert bool((spectrum.values.diff() >= 0).all())


def test_a_spectrum_is_computed_once(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tmp_path).spectra(model, [0])[0]
    monkeypatch.setattr(Spectrum, "of", None)
    again = make(tmp_path).spectra(model, [0])[0]
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors, again.vectors)


@pytest.mark.parametrize("block", [99, -1])
def test_a_further_block_that_the_model_does_not_have_is_named(
    model: Model, tmp_path: Path, block: int
) -> None:
    with pytest.raises(ConfigError, match=rf"moments\.layers=\[0, {block}\] but tiny-gpt2 has 4 blocks"):
        make(tmp_path, layers=[0, block]).load(model, [1])


def test_the_spectra_of_several_layers_take_one_pass(model: Model, tmp_path: Path) -> None:
    ran: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda *_: ran.append(0))
    make(tmp_path / "moments").load(model, [0, 1])
    passes = len(ran)
    spectra = make(tmp_path / "spectra").spectra(model, [1, 0])
    handle.remove()
    assert passes and len(ran) == 2 * passes
    assert list(spectra) == [1, 0]
    apart = make(tmp_path / "moments").spectra(model, [1])[1]
    assert torch.equal(spectra[1].values, apart.values)


def test_given_moments_have_a_spectrum_too(model: Model) -> None:
    given = GivenMoments(matrices={0: torch.diag(torch.tensor([3.0, 1.0, 2.0]))})
    assert given.spectra(model, [0])[0].values.tolist() == [1.0, 2.0, 3.0]
    assert given.label == "given"


# --- files of the published layout -------------------------------------------------------------------


def written(folder: Path, width: int, count: int = 8, **entries: object) -> str:
    """A file as `rome/layer_stats.py` leaves it, for block 0."""
    total = np.add.outer(np.arange(width, dtype=np.float32), np.arange(width, dtype=np.float32))
    content = {"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": count, "sample_size": 3}
    np.savez(folder / "h.0_float32_mom2_3.npz", **{"mom2.mom2": total, **content, **entries})  # pyright: ignore
    return str(folder / "h.{layer}_float32_mom2_3.npz")


def test_a_published_file_holds_a_sum_and_gives_a_mean(model: Model, tmp_path: Path) -> None:
    width = model.weight(SITE, 0).shape[1]
    source = ImportedMoments(path=written(tmp_path, width))
    moment = source.load(model, [0])[0]
    assert moment[0, 4] == 0.5
    assert moment.dtype == torch.float64
    assert source.label == f"imported: {source.path}"
    assert isinstance(source, MomentSource)


def test_a_published_file_of_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    path = written(tmp_path, 5)
    with pytest.raises(DataError, match=r"\(5, 5\).* block 0 .* width 128"):
        ImportedMoments(path=path).load(model, [0])


def test_a_file_that_cannot_be_used_is_told_in_a_sentence(model: Model, tmp_path: Path) -> None:
    path = str(tmp_path / "h.{}.npz")
    with pytest.raises(DataError, match="there are no second moments in"):
        ImportedMoments(path=path).load(model, [0])
    (tmp_path / "h.0.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        ImportedMoments(path=path).load(model, [0])
    np.savez(tmp_path / "h.0.npz", mean=np.zeros(3))
    with pytest.raises(DataError, match=r"no entry mom2\.mom2"):
        ImportedMoments(path=path).load(model, [0])
    np.savez(tmp_path / "h.0.npz", **{"mom2.mom2": np.array([{}], dtype=object), "mom2.count": 1})
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        ImportedMoments(path=path).load(model, [0])
    with pytest.raises(DataError, match="collected over 0 tokens"):
        ImportedMoments(path=written(tmp_path, model.weight(SITE, 0).shape[1], count=0)).load(model, [0])


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ((3, 3), np.nan, "NaN or infinity"),
        ((3, 4), np.inf, "NaN or infinity"),
        ((3, 3), -1.0, "is negative"),
        ((3, 4), 99.0, "not symmetric"),
        (slice(None), 0.0, "all of them are zero"),
    ],
)
def test_a_published_file_that_is_no_second_moment_is_refused(
    model: Model, tmp_path: Path, place: object, value: float, problem: str
) -> None:
    width = model.weight(SITE, 0).shape[1]
    total = np.eye(width, dtype=np.float32)
    total[place] = value
    source = ImportedMoments(path=written(tmp_path, width, **{"mom2.mom2": total}))
    with pytest.raises(DataError, match=rf"holds no second moment, since .*{problem}"):
        source.load(model, [0])


@pytest.mark.parametrize("path", ["stats.npz", "{block}.npz", "{", "{layer.npz"])
def test_a_path_without_a_place_for_the_block_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"moments\.path=.* has to hold \{layer\}"):
        ImportedMoments(path=path)


# --- labels ------------------------------------------------------------------------------------------


def test_a_label_says_how_much_of_what_was_read(tmp_path: Path) -> None:
    published = make(tmp_path, name="published", tokens=None, documents=100_000)
    assert published.label == "published: 100,000 documents of listed"
    assert (
        make(tmp_path, name="fast", tokens=None, tokens_per_width=10).label == "fast: 10·d tokens of listed"
    )
    assert make(tmp_path, tokens=100_000).label == "100,000 tokens of listed"
