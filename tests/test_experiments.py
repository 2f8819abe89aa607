"""Experiments, their claims, the Makefile and the table of docs/experiments.md name the same."""

import json
import re
from collections import defaultdict

import pytest
import yaml

from analysis.claims.registry import STUDIES
from analysis.results.collection import collect
from analysis.results.run_folder import RunFolder
from pipeline.config.fingerprint import fingerprint
from tests.paths import ROOT

FILES = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
CLAIMS_NOTHING = {"quickstart", "search_encore", "mechanism_record", "real", "order", "durability", "editors"}


def test_the_page_lists_every_experiment_once():
    section = (ROOT / "docs" / "experiments.md").read_text().partition("## List")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.M)) == [path.stem for path in FILES]


def test_every_experiment_tests_claims_or_says_what_else_it_is_for():
    assert {study.name for study in STUDIES} == {path.stem for path in FILES} - CLAIMS_NOTHING


def test_make_paper_computes_every_study_and_what_a_replay_needs_before_it():
    listed = re.search(r"^EXPERIMENTS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert listed
    names = listed[1].replace("\\\n", " ").split()
    own = [study.name for study in STUDIES if not (study.same_as or study.scale)]
    assert sorted(names) == sorted([*own, "mechanism_record"])
    assert names.index("mechanism_record") < names.index("mechanism")


def test_an_experiment_begins_with_its_command():
    """And it lies in a folder of its own name."""
    for path in FILES:
        text = path.read_text()
        assert yaml.safe_load(text)["name"] == path.stem
        assert text.splitlines()[1].startswith(f"# python -m pipeline experiment={path.stem}")


def test_kept_runs_of_the_real_model_are_complete_and_anonymous():
    """Without the texts of facts, which are others', and without places of a machine."""
    folders = [path for path in (ROOT / "docs" / "real").iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        found = collect(folder)
        # a model that breaks takes no more edits, which is what its run is kept for
        notes = [note for note in found.notes if not note.endswith("edits took.")]
        assert not found.unfinished and not notes and set(found.runs["name"]) == {folder.name}
        for run in folder.iterdir():
            tree = json.loads((run / "provenance.json").read_text())
            assert not {"host", "platform", "command"} & set(tree) and tree["git"]["dirty"] is False
            config = (run / "config.yaml").read_text()
            assert fingerprint(yaml.safe_load(config)) == RunFolder(run).fingerprint
            assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", config + json.dumps(tree))
            assert not (run / "records.parquet").exists()


@pytest.mark.slow
def test_kept_runs_are_complete_and_anonymous():
    """Runs of one length rest on the same files; nothing in them names the machine."""
    folders = [path for path in (ROOT / "docs" / "facts").iterdir() if path.is_dir()]
    kept = {path.name: collect(path) for path in folders}
    trees = [tree for found in kept.values() for tree in found.provenance.values()]
    for name, found in kept.items():
        assert not found.unfinished and not found.notes
        assert set(found.runs["name"]) == {name}
    files = defaultdict(set)  # by length: no claim compares runs of different lengths
    for found in kept.values():
        for run, edits in found.runs[["run", "edits"]].itertuples(index=False):
            entries = found.provenance[run].items()
            files[edits] |= {entry for entry in entries if entry[0].startswith("inputs.")}
    assert {len(of_length) for of_length in files.values()} == {2}, (
        "one file of facts, one build of the model"
    )
    assert not {"host", "platform", "command"} & {key for tree in trees for key in tree}
