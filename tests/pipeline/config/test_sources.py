"""`intervention.source=` of a command line: a configuration gets a run that stays the same one."""

from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from analysis.results.run_folder import LATEST
from editors.errors import ConfigError, DataError
from pipeline.config.overrides.quoting import quoted
from pipeline.config.overrides.sources import with_sources
from pipeline.runs.layout import point_latest, run_of

FIRST, SECOND, OTHER = "memit-s0-aaaaaaaaaa", "memit-s1-bbbbbbbbbb", "rome-s0-cccccccccc"


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`outputs/x` with three finished runs, the second of which is the latest."""
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/x")
    for name in (FIRST, SECOND, OTHER):
        editor, seed, _ = name.split("-")
        (folder / name).mkdir(parents=True)
        (folder / name / "DONE").write_text("2026-01-31T12:00:00+00:00")
        config = {"editor": {"name": editor}, "model": {"name": "tiny"}, "seed": int(seed[1:])}
        (folder / name / "config.yaml").write_text(yaml.safe_dump(config))
    point_latest(folder / SECOND)
    return folder


def values(argument: str) -> list[str]:
    """The value of the only argument, or those of a sweep, as Hydra reads them."""
    (override,) = OverridesParser.create().parse_overrides(quoted(with_sources([argument])))
    several = override.sweep_string_iterator() if override.is_sweep_override() else [str(override.value())]
    return [value.strip("'") for value in several]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("outputs/x/latest", [SECOND]),
        ("outputs/x/rome", [OTHER]),
        ("outputs/x/cccc", [OTHER]),
        ("bbbbbbbbbb", [SECOND]),
        (f"outputs/x/{FIRST}", [FIRST]),
        (f"outputs/x/latest,outputs/x/{FIRST}", [SECOND, FIRST]),
    ],
)
def test_a_run_is_named_by_its_folder(experiment: Path, text: str, runs: list[str]):
    paths = [str(experiment / run) for run in runs]
    assert values(f"intervention.source={text}") == paths


def test_the_latest_run_of_a_command_stays_the_same_when_the_link_moves(experiment: Path):
    before = with_sources(["intervention.source=outputs/x/latest"])
    point_latest(experiment / OTHER)
    assert with_sources(["intervention.source=outputs/x/latest"]) != before == with_sources(before)
    with pytest.raises(ConfigError, match=f"moves from run to run: name the run itself.* now .*/{OTHER}"):
        run_of("outputs/x/latest")


@pytest.mark.parametrize("text", ["outputs/x", "outputs/nowhere", "~/x", "nobody", "???", "null"])
def test_other_values_are_left_as_they_are(experiment: Path, text: str):
    arguments = [f"intervention.source={text}", "edits=3", "-m", "intervention.source.x=outputs/x/latest"]
    assert with_sources(arguments) == arguments
    odd = ["intervention.source=${name}", "intervention.source=[a]", "intervention.source='outputs/x/latest'"]
    assert with_sources(odd) == odd


def test_settings_reach_the_run_which_adds_its_model_and_seed(experiment: Path):
    assert values("intervention.source=outputs/x:editor=memit,seed=0") == ["outputs/x:editor=memit,seed=0"]
    both = values("intervention.source=outputs/x:editor=memit,seed=0,outputs/x:editor=rome")
    assert [run_of(value).name for value in both] == [FIRST, OTHER]
    assert run_of("outputs/x:editor=memit", "tiny", 1).name == SECOND
    with pytest.raises(ConfigError, match=r"editor=memit holds 2 finished runs, 0 of them of model=large"):
        run_of("outputs/x:editor=memit", "large", 1)
    with pytest.raises(ConfigError, match=r"source=outputs/x:seed=7: no run .* choose seed=0 or"):
        run_of("outputs/x:seed=7")


def test_what_names_no_run_or_several_is_told_before_anything_is_composed(experiment: Path):
    with pytest.raises(DataError, match=rf"2 runs: choose .*{FIRST} or .*{SECOND}"):
        with_sources(["intervention.source=outputs/x/memit"])
    (experiment / LATEST).unlink()
    with pytest.raises(DataError, match="no run of outputs/x begins with latest: choose"):
        with_sources(["intervention.source=outputs/x/latest"])


def test_a_run_that_is_not_finished_is_told(experiment: Path):
    (experiment / OTHER / "DONE").unlink()
    for text in (f"outputs/x/{OTHER}", "outputs/x:editor=rome"):
        with pytest.raises(ConfigError, match="is a run that is not finished: complete it first"):
            run_of(text)
