"""Models made by other code take the place of the base model, one after another."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from editors.errors import ConfigError, ModelError
from editors.updates import Site
from pipeline.commands.measure import overrides
from pipeline.data.factset import FactSet
from pipeline.interventions.checkpoints import Checkpoints
from pipeline.launch import launch
from tests.tiny import tiny_model


class Observer:
    """Notes the norm of a matrix and the change at every look."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.steps: list[int] = []
        self.edited: list[Site] = []

    def look(self, model, part, change=None) -> bool:
        self.edited = list(part.edited)
        self.norms.append(float(model.current(Site("mlp_down", 0)).norm()))
        self.steps.append(change.steps if change else 0)
        return True


def saved(folder: Path, factor: float) -> Path:
    """A folder with the tiny model, of which one matrix is scaled."""
    model = tiny_model(double=False)
    model.module("mlp_down", 0).weight.data *= factor
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def test_every_model_is_measured_in_its_place(tmp_path: Path) -> None:
    paths = [str(saved(tmp_path / f"checkpoint-{n * 100}", float(n))) for n in (2, 3)]
    observer, model = Observer(), tiny_model(double=False)
    Checkpoints(paths=paths).run(
        model, Checkpoints(paths=paths).plan(FactSet(name="none", facts=())), observer
    )
    assert observer.steps == [0, 200, 100]
    ratios = [norm / observer.norms[0] for norm in observer.norms]
    assert ratios == pytest.approx([1, 2, 3], rel=1e-5)
    assert observer.edited == [Site("mlp_down", 0)]  # the others are the same in every model


def test_every_stage_measures_every_model(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    """Cadences are for steps of one model: at=[100, 1000] and every=10 would leave out those in between."""
    paths = ",".join(str(saved(tmp_path / f"step-{n}", float(n))) for n in (2, 3, 5))
    launch(
        composed(
            "intervention=checkpoints", f"intervention.paths=[{paths}]",
            "stage=[norms,spectra,activations]", "text.tokens=300",
        ),
        tmp_path,
    )  # fmt: skip
    (metrics,) = (tmp_path / "test").glob("*-*/metrics.jsonl")
    base, *rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["steps"] for row in (base, *rows)] == [0, 2, 3, 5]
    keys = {key for key in rows[-1] if "/" in key}
    assert {"norm/frobenius_ratio/mlp", "norm/distance/mlp_up.03", "norm/spectral/mlp_down.00"} <= keys
    assert any(key.startswith("activation/") for key in keys)
    assert all(row.keys() >= keys for row in rows)
    assert base.keys() >= {key for key in keys if key.startswith("norm/frobenius_ratio/")}


def test_a_model_of_another_shape_or_with_other_tokens_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "other", 1.0)
    with pytest.raises(ModelError, match="not of the shape"):
        Checkpoints(paths=[str(folder)]).run(tiny_model("llama", double=False), None, Observer())


def test_a_refused_model_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    paths = [str(saved(tmp_path / "step-2", 2.0)), str(saved(tmp_path / "step-3", 3.0))]
    observer = Observer()
    (tmp_path / "step-3" / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        Checkpoints(paths=paths).run(tiny_model(double=False), None, observer)
    assert not observer.steps


def test_models_that_equal_the_base_have_no_edited_matrix(tmp_path: Path) -> None:
    observer = Observer()
    Checkpoints(paths=[str(saved(tmp_path / "same", 1.0))]).run(tiny_model(double=False), None, observer)
    assert observer.edited == [] and len(observer.norms) == 2


@pytest.mark.parametrize(
    ("paths", "places"),
    [
        (["run/checkpoint-100", "run/checkpoint-500/"], [100, 500]),
        (["step_5_final", "step_7_final"], [5, 7]),
        (["run/checkpoint-500", "run/checkpoint-100"], [1, 2]),
        (["a", "b-2"], [1, 2]),
        (["smollm2-135m-edited"], [1]),
        (["/tmp/s2_edited"], [1]),
        (["run/global_step100", "run/edits_250"], [100, 250]),
    ],
)
def test_places_come_from_the_paths_if_their_numbers_ascend(paths: list[str], places: list[int]) -> None:
    assert list(Checkpoints(paths=paths).places) == places


@pytest.mark.parametrize("counts", [[1], [2, 1], [0, 1], [1, 1]])
def test_places_that_are_given_have_to_ascend(counts: list[int]) -> None:
    with pytest.raises(ConfigError, match="counts"):
        Checkpoints(paths=["a", "b"], counts=counts)


def test_measure_is_short_for_a_run() -> None:
    options = overrides(["tiny-gpt2", "my model", "b", "name=mine"])
    assert options == [
        "model=tiny-gpt2", "intervention=checkpoints", "intervention.paths=['my model','b']", "name=measure",
        "stage=[norms,spectra]", "name=mine",
    ]  # fmt: skip
    assert overrides(["folder", "b"])[:2] == ["model=hf", "model.path='folder'"]


@pytest.mark.parametrize("arguments", [[], ["base"], ["base", "stage=[norms]"], ["--base", "edited"]])
def test_measure_needs_two_models(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="measure BASE EDITED"):
        overrides(arguments)
