"""The first screen: each row names claims that exist, and the correction for their number."""

from dataclasses import replace

import pandas as pd
import pytest

from analysis.claims import headlines
from analysis.claims.evidence import Evidence
from analysis.claims.headlines import BUILT_IN, HEADLINES, REAL, findings
from analysis.results.collection import collect
from tests.fake_runs import WriteRun


@pytest.mark.parametrize("headline", HEADLINES, ids=lambda headline: headline.words)
def test_every_row_is_answered_by_one_claim_on_a_kind_of_model(headline):
    answers = [answer for column in (REAL, BUILT_IN) if (answer := headline.claim(column))]
    assert answers and all(claim in study.claims for study, claim in answers)


def test_there_are_at_most_twelve_rows():
    assert len(HEADLINES) <= 12


def test_a_claim_that_is_not_significant_among_all_is_partly_confirmed(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
):
    evidence = Evidence(collect(write_run(editor="rome", name="collapse").parent))
    repeats = {"clear": [1.0, 1.001, 0.999], "close": [1.0, 1.25, 0.75], "none": []}

    def row(name: str):
        study, claim = HEADLINES[3].claim(REAL) or pytest.fail("it has no answer")
        rows = pd.DataFrame({"case": "a", "value": repeats[name]})
        judged = replace(
            claim, measure=lambda _: rows, threshold=0.0, ratio=False, source_value=None, smallest_effect=0.1
        )
        other = replace(study, claims=(judged,))
        return type("Row", (), {"claim": lambda self, column: (other, judged)})()

    monkeypatch.setattr(headlines, "HEADLINES", [row(name) for name in ("close", "clear", "close", "none")])
    verdicts = [one.verdict for one in findings(REAL, {"collapse": evidence}) if one]
    assert verdicts == ["confirmed", "confirmed", "confirmed", "untested"]
    monkeypatch.setattr(headlines, "HEADLINES", [row("close")] * 8)
    assert [one.verdict for one in findings(REAL, {"collapse": evidence}) if one] == ["partly"] * 8


def test_experiments_that_were_not_run_have_no_finding():
    assert findings(REAL, {}) == [None] * len(HEADLINES)
