"""Texts are opened before weights are loaded: those that a run certainly reads, and no others."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from analysis.inference.texts import TextSet
from analysis.stages.functional import FunctionalDrift
from editors.errors import ConfigError, DataError
from editors.methods.crispedit.curvature import TextCurvature
from editors.moments.collected import CollectedMoments
from editors.updates import Site
from pipeline.data.corpora import TextFile
from pipeline.data.opened_texts import in_sample, open_texts
from pipeline.data.pairs import PairRows
from pipeline.interventions.training.examples import Completions
from tests.tiny import TEXT, tiny_model


@dataclass(frozen=True, kw_only=True)
class Unreachable:
    """A text on a hub that does not answer: it has an identity, but no documents."""

    name: str = "far"
    asked: list[str] = field(default_factory=list, compare=False)

    @property
    def label(self) -> str:
        return self.name

    def identity(self) -> str:
        return self.name

    def __iter__(self) -> Iterator[str]:
        self.asked.append(self.name)
        raise DataError(f"{self.name} does not answer")


@dataclass(frozen=True, kw_only=True)
class Near:
    """A text under the name of another one."""

    label: str = "far"

    def identity(self) -> str:
        return self.label

    def __iter__(self) -> Iterator[str]:
        yield from TEXT


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A part of a run with parts of its own."""

    inner: object
    text: object = None


def test_readers_are_found_in_parts_of_parts():
    moments = CollectedMoments(corpus=Unreachable(), tokens=10, folder="/nowhere")
    with pytest.raises(DataError, match="far does not answer"):
        open_texts([Holder(inner={"a": Holder(inner=moments)})], "tiny")


def test_a_text_that_is_not_read_is_not_opened():
    """A part may hold a text without reading it, as a model does, and a text set the one it does not need."""
    open_texts([Holder(inner=None, text=Unreachable())], "tiny")
    open_texts([TextSet(corpus=Near(), otherwise=Unreachable())], "tiny")
    with pytest.raises(DataError, match="far"):
        open_texts([TextSet(otherwise=Unreachable())], "tiny")
    with pytest.raises(ConfigError, match=r"text\.corpus is not set"):
        open_texts([TextSet()], "tiny")


def test_second_moments_in_the_cache_stand_in_for_their_text(tmp_path: Path):
    model = tiny_model("gpt2")
    folder = str(tmp_path)
    CollectedMoments(corpus=Near(), tokens=20, folder=folder).load(model, [0])
    far, other = Unreachable(), Unreachable(name="other")
    open_texts([CollectedMoments(corpus=far, tokens=20, folder=folder)], model.name)
    assert not far.asked
    for moments, name in (
        (CollectedMoments(corpus=other, tokens=20, folder=folder), model.name),
        (CollectedMoments(corpus=far, tokens=20, folder=folder), "another"),
    ):
        with pytest.raises(DataError, match="does not answer"):
            open_texts([moments], name)


def test_a_file_that_is_gone_is_told_though_its_second_moments_are_cached(tmp_path: Path):
    """Its content names the place in the cache."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXT))
    moments = CollectedMoments(corpus=TextFile(path=str(text)), tokens=20, folder=str(tmp_path / "cache"))
    model = tiny_model("gpt2")
    moments.load(model, [0])
    open_texts([moments], model.name)
    text.unlink()
    with pytest.raises(DataError, match=r"text\.txt"):
        open_texts([moments], model.name)


def test_pairs_are_opened_like_texts(tmp_path: Path):
    examples = Completions(pairs=PairRows(path=str(tmp_path / "absent.jsonl")), length=8)
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        open_texts([Holder(inner=examples)], "tiny")


def test_the_text_of_a_curvature_is_opened_until_it_is_cached(tmp_path: Path):
    curvature = TextCurvature(corpus=TextFile(path=str(tmp_path / "absent.txt")), folder=str(tmp_path))
    with pytest.raises(DataError, match=r"absent\.txt"):
        open_texts([Holder(inner=curvature)], "tiny")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXT))
    model, kept = tiny_model("gpt2"), TextCurvature(corpus=TextFile(path=str(text)), folder=str(tmp_path))
    kept.load(model, [Site("mlp_down", 1)])
    assert [*kept.will_read(model.name)] == []


@pytest.mark.parametrize("protecting", ["moments", "curvature"])
def test_drift_measured_on_the_text_that_an_editor_protects_is_told(tmp_path: Path, protecting: str):
    """Whether its moments or curvature are cached or not: the editor made drift small there."""
    model, folder = tiny_model("gpt2"), str(tmp_path)
    moments = {
        "moments": CollectedMoments(corpus=Near(), tokens=20, folder=folder),
        "curvature": TextCurvature(corpus=Near(), documents=2, folder=folder),
    }[protecting]
    same, other = (
        [FunctionalDrift(texts=TextSet(corpus=each, otherwise=Near()))]
        for each in (None, Near(label="other"))
    )
    for _ in range(2):
        (sentence,) = in_sample(Holder(inner=moments), same, model.name)
        assert "corpus@text.corpus=" in sentence
        assert not [*in_sample(Holder(inner=moments), other, model.name)]
        if isinstance(moments, CollectedMoments):
            moments.load(model, [0])
        else:
            moments.load(model, [Site("mlp_down", 0)])
    assert not [*in_sample(Holder(inner=None, text=Near()), same, model.name)]
