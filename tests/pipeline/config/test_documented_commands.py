"""Every command line that the pages, the Makefile and the configuration show composes as it is written."""

import re
import shlex
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from analysis.__main__ import main as analysis
from pipeline.command_line import COMMANDS, MEASURE, SUGGEST
from pipeline.commands.suggestions.search_request import requested
from pipeline.config.overrides.quoting import quoted, with_facts
from pipeline.config.resolvers import register_resolvers
from tests.paths import CONF, ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]
FILES = [*PAGES, *sorted((ROOT / "docs").rglob("*.md")), *sorted(CONF.rglob("*.yaml"))]
CALL = re.compile(r"(?:-m (pipeline|analysis)|(?:^|`)normscope(?= \S+=))(?=[\s`]|$)([^`]*)")
PLACEHOLDERS = ("…", "...", "$", "NAME", "<")
"""A word that contains one of these is a placeholder."""
FLAGS = ("-m", "--multirun", "--help")


class Command(NamedTuple):
    program: str
    words: tuple[str, ...]


def commands(path: Path) -> Iterator[Command]:
    """The commands of a file; continued lines are joined, variables of the Makefile filled in."""
    text = re.sub(r"\s*\\\n\s*", " ", path.read_text())
    variables = dict(re.findall(r"^(\w+)\s*[:?]?=\s*(.*?)$", text, re.M)) if path.name == "Makefile" else {}
    for _ in range(2):  # a variable may hold another one
        text = re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), text)
    for line in text.splitlines():
        if path.suffix == ".yaml" and not line.startswith("#"):
            continue
        for part in re.split(r" && | \|\| |; ", line.removeprefix("# ")):
            for match in CALL.finditer(part):
                # in config.yaml three spaces separate a command from its description
                words = shlex.split(re.split(r" {3,}", match[2])[0], comments=True)
                yield Command(match[1] or "pipeline", tuple(words))


DOCUMENTED = sorted({command for path in FILES for command in commands(path)})
OWN_FOLDER = "--config-dir"
RUNS = [
    c
    for c in DOCUMENTED
    if c.program == "pipeline"
    and not {*c.words[:1]} & {*COMMANDS, MEASURE, SUGGEST}
    and OWN_FOLDER not in c.words
]
PLUGINS = [c for c in DOCUMENTED if c.program == "pipeline" and OWN_FOLDER in c.words]
SEARCHES = [c.words[1:] for c in DOCUMENTED if c.words[:1] == (SUGGEST,) and "…" not in "".join(c.words)]
ANALYSES = sorted({c.words[0] for c in DOCUMENTED if c.program == "analysis" and c.words})


def overrides(words: tuple[str, ...]) -> list[Override]:
    """The overrides of a command without flags and placeholders."""
    plain = [word for word in words if word not in FLAGS and not any(p in word for p in PLACEHOLDERS)]
    return OverridesParser.create().parse_overrides(quoted(with_facts(plain)))


def jobs(overrides: list[Override]) -> list[list[str]]:
    """Jobs of a sweep that together choose every file at least once; ranges of a search are left out."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([f"{key}={override.get_value_element_as_str()}"])
        elif override.is_choice_sweep() or override.is_range_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            choices.append(values if (CONF / key.partition("@")[0]).is_dir() else values[:1])
    number = max((len(choice) for choice in choices), default=1)
    columns = [islice(cycle(choice), number) for choice in choices]
    return [list(job) for job in zip(*columns, strict=True)] or [[]]


@pytest.mark.parametrize("words", SEARCHES, ids=" ".join)
def test_a_documented_search_composes(words: tuple[str, ...]):
    request = requested(words)
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config", [f"{key}={value}" for key, value in request.options.items()])


def test_all_kinds_of_files_document_commands():
    assert len(RUNS) > 250
    for kind in (["Makefile"], ["README.md"], ["docs", "sweeps.md"], ["conf", "editor", "rome.yaml"]):
        assert list(commands(ROOT.joinpath(*kind)))
    trainings = commands(ROOT / "docs" / "interventions.md")
    assert any("intervention/sharding=fsdp" in command.words for command in trainings)


@pytest.mark.parametrize("command", RUNS, ids=lambda command: " ".join(command.words)[:90])
def test_a_documented_run_composes(command: Command):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parsed = overrides(command.words)
        for job in jobs(parsed):
            config = compose("config", job, return_hydra_config=True)
            if any(override.is_sweep_override() for override in parsed):
                assert "-m" in command.words or config.hydra.mode == RunMode.MULTIRUN


@pytest.mark.parametrize("command", PLUGINS, ids=lambda command: " ".join(command.words)[:90])
def test_a_documented_plugin_composes_with_a_folder_of_the_user(command: Command, tmp_path: Path):
    """The folder holds `<group>/mine.yaml` for every group of which the command chooses `mine`."""
    flag = command.words.index(OWN_FOLDER)
    parsed = overrides((*command.words[:flag], *command.words[flag + 2 :]))
    groups = [o.get_key_element() for o in parsed if "mine" in re.findall(r"\w+", str(o.value()))]
    groups = [group for group in groups if (CONF / group).is_dir()]
    for group in groups:
        (tmp_path / group).mkdir(parents=True)
        (tmp_path / group / "mine.yaml").write_text("_target_: my_plugin.Mine\nname: mine\n")
    register_resolvers()
    (job,) = jobs(parsed)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*job, f"hydra.searchpath=[file://{tmp_path}]"])
    assert groups
    assert all(
        OmegaConf.select(config, group.replace("/", "."))._target_ == "my_plugin.Mine" for group in groups
    )


def test_every_group_in_config_yaml_has_a_comment():
    entries = re.findall(r"^  - (?!_self_|override)(.*)$", (CONF / "config.yaml").read_text(), re.M)
    assert len(entries) > 15 and all(" # " in entry for entry in entries)


@pytest.mark.parametrize("name", ANALYSES)
def test_a_documented_analysis_is_a_command_of_it(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        analysis([name, "--help"])
    assert ended.value.code == 0 and name in capsys.readouterr().out
