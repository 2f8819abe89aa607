"""`overlay=…` runs every experiment on other data, or at another scale, in a folder of its own."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from analysis.claims.registry import STUDIES
from analysis.claims.study import Study
from pipeline.config.fingerprint import fingerprint
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import ResolvedConfig, resolved
from pipeline.sweeps import search
from tests.pipeline.conftest import CONF

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PAPER = "gpt2-xl,gpt-j-6b,llama2-7b,llama3-8b"


def composed(*overrides: str) -> DictConfig:
    search.install()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def plain(*overrides: str) -> ResolvedConfig:
    return resolved(composed(*overrides))


def params(config: DictConfig) -> dict:
    return dict(OmegaConf.to_container(config.hydra.sweeper.params))  # pyright: ignore


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_on_real_facts_has_the_same_sweep(experiment: str):
    before = composed(f"experiment={experiment}")
    config = composed(f"experiment={experiment}", "overlay=facts", "data.path=facts.jsonl")
    assert (config.model.name, config.data.name) == ("tiny-gpt2-counterfact", "counterfact")
    assert config.data.limit == 1000
    assert params(config) == params(before)
    assert config.hydra.sweep.dir == f"outputs/{experiment}_facts"
    assert config.name == f"{experiment}_facts" != before.name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_at_paper_scale_also_sweeps_models(experiment: str):
    before = composed(f"experiment={experiment}")
    config = composed(f"experiment={experiment}", "overlay=paper")
    assert (config.model.name, config.data.name) == ("gpt2-xl", "counterfact")
    assert config.edits == 2000
    assert config.data.dataset == "azhx/counterfact"
    assert params(config) == params(before) | {"model": PAPER}
    assert config.name == f"{experiment}_paper"


@pytest.mark.parametrize("study", [study for study in STUDIES if study.same_as], ids=lambda study: study.name)
@pytest.mark.parametrize("scale", [(), ("overlay=paper",), ("overlay=facts", "data.path=facts.jsonl")])
def test_an_experiment_that_equals_another_has_the_same_runs(study: Study, scale: tuple[str, ...]):
    first, second = (f"experiment={name}" for name in (study.name, study.same_as))
    assert params(composed(first, *scale)) == params(composed(second, *scale))
    assert fingerprint(plain(first, *scale)) == fingerprint(plain(second, *scale))


@pytest.mark.parametrize("experiment", ["quickstart", "encore", "mechanism_record"])
def test_fewer_stages_leave_no_values_of_the_others(experiment: str):
    assert set(plain(f"experiment={experiment}", "stage=[norms]")["stage"]) == {"norms"}


def test_a_name_on_the_command_line_takes_precedence():
    """Without a name and an experiment it begins with `default`."""
    scaled = ("overlay=facts", "data.path=facts.jsonl")
    assert plain(*scaled)["name"] == "default_facts"
    assert plain(*scaled, "name=mine")["name"] == "mine"


@pytest.mark.parametrize("domain", ["places", "work"])
def test_a_domain_restricts_edits_and_training_alike(domain: str):
    relations = plain(f"overlay={domain}")["data"]["relations"]
    assert len(relations) == 2
    examples = [
        plain(f"overlay={domain}", f"intervention={kind}")["intervention"]["examples"]
        for kind in ("cpt", "fft")
    ]
    assert examples[0]["corpus"]["relations"] == examples[1]["pairs"]["relations"] == relations


def test_domains_and_the_whole_world_are_different_runs():
    overlays: list[tuple[str, ...]] = [(), ("overlay=places",), ("overlay=work",)]
    assert len({fingerprint(plain(*overlay)) for overlay in overlays}) == 3


@pytest.mark.parametrize("overlay", ["paper", "facts"])
def test_another_overlay_replaces_the_swept_domains(overlay: str):
    swept = params(composed("experiment=universality"))
    parser = OverridesParser.create()
    overrides = [f"{key}={value}" for key, value in swept.items()] + [f"overlay={overlay}"]
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)
    assert {part for job in jobs for part in job if part.startswith("overlay")} == {f"overlay={overlay}"}
