"""The study of long sequences: answers are paired by document, ENCORE and MEMIT by seed."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.claims.evidence import Evidence
from analysis.claims.registry import STUDIES
from analysis.claims.studies.damage.collapse import KNOWN_TASK, answer_changes
from analysis.claims.verdicts import Finding, judge
from analysis.results.collection import collect
from tests.fake_runs import WriteRun

STUDY = next(study for study in STUDIES if study.name == "collapse")
FACTS = 200


def answers(folder: Path, lost: int, first: int = 0) -> None:
    """Answers at the start and at the end: facts from `first` on are lost, and one word of text of four."""
    rows = [
        {"part": 0, "count": count, "task": task, "document": number, "right": right, "log_likelihood": -1.0}
        for count in (0, 60)
        for task, documents in (("known_facts", FACTS), ("next_word", 4))
        for number in range(documents)
        for right in [not (count and first <= number < first + (lost if task == "known_facts" else 1))]
    ]
    pd.DataFrame(rows).to_parquet(folder / "answers.parquet")


@pytest.fixture
def evidence(write_run: WriteRun) -> Evidence:
    """Two seeds of MEMIT, which lose 60 facts, and of ENCORE, which lose 20 of them."""
    for seed in (0, 1):
        for editor, lost in (("memit", 60), ("encore", 20)):
            folder = write_run(editor=editor, seed=seed, name="collapse")
            answers(folder, lost, first=seed)
    return Evidence(collect(folder.parent))


def finding(evidence: Evidence, words: str) -> Finding:
    (claim,) = (claim for claim in STUDY.claims if words in claim.statement)
    return judge(claim, evidence)


def test_every_document_is_compared_with_itself(evidence: Evidence):
    changes = answer_changes(evidence, KNOWN_TASK)
    assert len(changes) == 4 and all(len(each) == FACTS for each in changes.values())
    assert sorted(-each.sum() for each in changes.values()) == [20, 20, 60, 60]


def test_lost_facts_are_counted_by_editor(evidence: Evidence):
    lost = finding(evidence, "Facts that nobody edited")
    cases = lost.cases.set_index("case")
    assert cases["mean"].to_dict() == pytest.approx({"memit": -0.3, "encore": -0.1})
    assert (cases["low"] < cases["mean"]).all() and (cases["mean"] < cases["high"]).all()
    assert cases["holds"].to_dict() == {"memit": True, "encore": False}
    assert lost.verdict == "partly"


def test_encore_is_compared_with_memit_fact_by_fact(evidence: Evidence):
    kept = finding(evidence, "keeps more of what the model knows")
    (case,) = kept.cases.to_dict("records")
    assert case["mean"] == pytest.approx(0.2) and case["seeds"] == 2
    assert kept.verdict == "confirmed"


def test_numbers_of_encore_are_compared_with_those_of_memit(evidence: Evidence):
    down = finding(evidence, "ENCORE holds norms down")
    assert down.verdict == "confirmed" and down.cases["seeds"].tolist() == [2]


def test_other_regularizers_on_memit_are_no_plain_memit(write_run: WriteRun):
    chosen = {"mpes": {"_target_": "editors.MPES", "hits": 4}}
    settings = {"intervention": {"name": "knowledge_edit", "editor": {"regularizers": chosen}}}
    answers(write_run(editor="encore", name="collapse"), 20)
    folder = write_run(editor="memit", name="collapse", settings=settings)
    answers(folder, 60)
    assert finding(Evidence(collect(folder.parent)), "keeps more").verdict == "untested"


def test_a_short_run_refutes_none_of_the_claims_about_long_ones(evidence: Evidence):
    late = finding(evidence, "late activations fall to about half")
    assert late.is_short and late.verdict in ("untested", "confirmed", "partly")


def test_runs_without_kept_answers_leave_the_abilities_untested(write_run: WriteRun):
    folder = write_run(editor="memit", name="collapse")
    runs = Evidence(collect(folder.parent))
    assert answer_changes(runs, KNOWN_TASK) == {}
    assert finding(runs, "Facts that nobody edited").verdict == "untested"
    assert finding(runs, "keeps more").verdict == "untested"
