"""`+scale=…` and `domain=…` turn every experiment into one on other data, in a folder of its own."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from analysis.claims.registry import STUDIES
from analysis.claims.study import Study
from pipeline.config.fingerprint import fingerprint
from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import ResolvedConfig, resolved, without_hydra
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
    return resolved(without_hydra(composed(*overrides)))


def params(config: DictConfig) -> dict:
    return dict(OmegaConf.to_container(config.hydra.sweeper.params))  # pyright: ignore


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_on_real_facts_sweeps_the_same_in_a_folder_of_its_own(experiment: str):
    before = composed(f"experiment={experiment}")
    config = composed(f"experiment={experiment}", "+scale=facts", "data.path=facts.jsonl")
    assert (config.model.name, config.data.name) == ("tiny-gpt2-counterfact", "counterfact")
    assert config.data.limit == 1000
    assert params(config) == params(before)
    assert config.hydra.sweep.dir == f"outputs/{experiment}_facts"
    assert without_hydra(config).name == f"{experiment}_facts" != without_hydra(before).name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_of_the_papers_size_sweeps_their_models_too(experiment: str):
    before = composed(f"experiment={experiment}")
    config = composed(f"experiment={experiment}", "+scale=paper")
    assert (config.model.name, config.data.name) == ("gpt2-xl", "counterfact")
    assert config.edits == 2000
    assert config.data.dataset == "azhx/counterfact"
    assert params(config) == params(before) | {"model": PAPER}
    assert without_hydra(config).name == f"{experiment}_paper"


@pytest.mark.parametrize("study", [study for study in STUDIES if study.same_as], ids=lambda study: study.name)
@pytest.mark.parametrize("scale", [(), ("+scale=paper",), ("+scale=facts", "data.path=facts.jsonl")])
def test_an_experiment_that_is_the_same_as_another_has_its_runs(study: Study, scale: tuple[str, ...]):
    mine, other = (f"experiment={name}" for name in (study.name, study.same_as))
    assert params(composed(mine, *scale)) == params(composed(other, *scale))
    assert fingerprint(plain(mine, *scale)) == fingerprint(plain(other, *scale))


@pytest.mark.parametrize("experiment", ["quickstart", "encore", "mechanism_record"])
def test_fewer_stages_leave_no_trace_of_the_experiments_values_for_the_others(experiment: str):
    assert set(plain(f"experiment={experiment}", "stage=[norms]")["stage"]) == {"norms"}


def test_a_name_on_the_command_line_wins_and_without_an_experiment_it_is_the_default():
    scaled = ("+scale=facts", "data.path=facts.jsonl")
    assert plain(*scaled)["name"] == "default_facts"
    assert plain(*scaled, "name=mine")["name"] == "mine"


@pytest.mark.parametrize("domain", ["places", "work"])
def test_a_domain_restricts_edits_and_training_alike(domain: str):
    relations = plain(f"domain={domain}")["data"]["relations"]
    assert len(relations) == 2
    examples = [
        plain(f"domain={domain}", f"intervention={kind}")["intervention"]["examples"]
        for kind in ("cpt", "fft")
    ]
    assert examples[0]["corpus"]["relations"] == examples[1]["pairs"]["relations"] == relations


def test_the_whole_world_is_no_domain_of_its_own():
    assert fingerprint(plain("domain=world")) == fingerprint(plain())
    assert len({fingerprint(plain(f"domain={name}")) for name in ("world", "places", "work")}) == 3
