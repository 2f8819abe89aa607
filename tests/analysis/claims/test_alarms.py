"""The study of alarms: leads are counted from the alarm to the loss, early numbers by their order alone."""

from pathlib import Path

import pytest

from analysis.claims.evidence import Evidence
from analysis.claims.studies.damage.alarms import STUDIES, losses
from analysis.claims.verdicts import judge
from analysis.results.collection import collect
from tests.fake_runs import WriteRun, write_rows

(STUDY,) = STUDIES
COUNTS = (0, 20, 40, 60, 80)


def run(
    write_run: WriteRun, name: str, known: list[float], ratios: list[float], drifts: list[float], alarm: int
) -> Path:
    """A run that is measured at `COUNTS`; its norm alarm fires there."""
    folder = write_run(editor=name, editor_label=name, name="alarms")
    rows = []
    for place, count in enumerate(COUNTS):
        row = {
            "step": place, "edits": count, "edit/known/unedited": known[place],
            "norm/frobenius_ratio/edited": ratios[place], "norm/functional/edited": drifts[place],
            "activation/norm_ratio/late": 1.0, "probe/accuracy/mean": 0.9, "downstream/mean/acc": 0.5,
        }  # fmt: skip
        if count == alarm:
            row["alarm/norm_growth/at"] = float(count)
        rows.append(row)
    write_rows(folder, rows)
    return folder


@pytest.fixture
def evidence(write_run: WriteRun) -> Evidence:
    """ROME loses facts at 60 edits, MEMIT at 40, ENCORE never; all have an alarm, MEMIT at 60 edits."""
    lost, kept = [1.0, 1.0, 0.95, 0.5, 0.4], [1.0, 1.0, 0.95, 0.95, 0.92]
    grows = [1.0, 3.0, 4.0, 5.0, 6.0]
    run(write_run, "rome", lost, grows, [0.0, 0.3, 0.5, 0.6, 0.7], alarm=20)
    run(write_run, "memit", [1.0, 0.95, 0.7, 0.5, 0.4], grows, [0.0, 0.4, 0.6, 0.7, 0.8], alarm=60)
    return Evidence(
        collect(
            run(
                write_run, "encore", kept, [1.0, 4.0, 5.0, 6.0, 7.0], [0.0, 0.1, 0.1, 0.1, 0.1], alarm=20
            ).parent
        )
    )


def test_a_run_loses_facts_below_nine_tenths_of_what_it_knew(evidence: Evidence):
    by_editor = losses(evidence).groupby(evidence.runs["editor"]).first()
    assert by_editor["rome"] == 60 and by_editor["memit"] == 40 and "encore" not in by_editor.dropna()


def test_a_lead_is_negative_if_the_alarm_comes_too_late(evidence: Evidence):
    leads = judge(STUDY.claims[0], evidence).cases.set_index("case")["mean"]
    assert leads.to_dict() == {"rome": 40.0, "memit": -20.0}


def test_an_early_number_is_judged_by_the_order_of_the_runs(evidence: Evidence):
    norm, drift = (judge(claim, evidence) for claim in STUDY.claims[1:])
    assert norm.cases["mean"].tolist() == [0.0]  # the run that loses least has the largest norm
    assert drift.cases["mean"].tolist() == [1.0] and drift.verdict == "confirmed"


def test_the_tables_count_false_alarms(evidence: Evidence):
    alarms, areas = (table.build(evidence) for table in STUDY.tables)
    (row,) = alarms.to_dict("records")
    assert row["fires in runs that lose facts"] == "2 of 2" and row["in runs that lose none"] == "1 of 1"
    assert row["median edits before the loss"] == 10
    assert areas["runs"].tolist()[0] == 3


def test_without_a_run_that_fails_nothing_can_be_told(write_run: WriteRun):
    evidence = Evidence(collect(run(write_run, "encore", [1.0] * 5, [1.0] * 5, [0.0] * 5, alarm=-1).parent))
    assert [judge(claim, evidence).verdict for claim in STUDY.claims] == ["untested"] * 3
    assert all(table.build(evidence).empty for table in STUDY.tables)
