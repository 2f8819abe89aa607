"""The table of metrics: every row is complete, no two rows share a key, and the page is made from it."""

import subprocess
import sys
from collections import Counter

import pytest

from analysis.__main__ import main
from analysis.metrics import areas, dashboard, metric_of, metrics, summary_of
from analysis.reports.metrics_page import render_metrics
from analysis.results.tables import HEADINGS, SCORES
from tests.metric_rows import not_in_one_row
from tests.paths import ROOT


def test_the_committed_page_is_the_generated_one(tmp_path, capsys):
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == render_metrics(), "write it again with python -m analysis metrics"
    assert main(["metrics", "--to", str(tmp_path / "metrics.md")]) == 0
    assert (tmp_path / "metrics.md").read_text() == page
    assert capsys.readouterr().out.endswith("metrics.md\n")


def test_every_area_is_on_the_page_and_in_one_section_of_the_dashboard():
    page = render_metrics()
    assert all(f"| `{metric.patterns[0]}`" in page for metric in metrics())
    assert Counter(name for names in dashboard().values() for name in names) == Counter(list(areas()))


def test_every_row_is_complete_and_belongs_to_its_area():
    for area, content in areas().items():
        for metric in content.metrics:
            assert metric.what and metric.unit and metric.better in ("↑", "↓", "")
            assert all(p.startswith(f"{area}/") and p.count("/") == 2 for p in metric.patterns)
            assert metric.column or not metric.heading, metric
            if metric.column or metric.card or metric.leads:
                assert metric_of(metric.key) is metric


def test_no_key_belongs_to_two_rows():
    examples = {"<site>": "attn_q.00", "<part>": "mlp.03", "<scope>": "sample", "<kind>": "mlp", "<i>": "2"}
    examples |= {"<class>": "last", "<stage>": "norms", "<task>": "mmlu", "<signature>": "own"}
    examples |= {"LL": "07", "NNNN": "0010"}
    keys = [pattern for metric in metrics() for pattern in metric.patterns]
    for placeholder, example in examples.items():
        keys = [key.replace(placeholder, example) for key in keys]
    assert not not_in_one_row(keys) and len(keys) == len(set(keys))


def test_columns_and_headings_name_their_metrics():
    assert (
        list(SCORES)[:4] == ["es", "ps", "ns", "score"]
        and SCORES["norm_ratio"] == "norm/frobenius_ratio/edited"
    )
    assert list(HEADINGS)[:6] == ["series", "edits", "steps", "tokens", "train_loss", "es"]
    assert list(HEADINGS)[-1] == "seconds" and "score" not in HEADINGS


@pytest.mark.parametrize(
    ("key", "summary"),
    [
        ("norm/own/mean", "last,max"),
        ("edit/token_accuracy/seen.rewrite", "last,max"),
        ("edit/loss_end/mean", "last,min"),
        ("activation/last_norm_ratio/prompts.block.03", "last,min,max"),
        ("activation/cka/block.03", None),
        ("mend/edit_loss/validation", "last,min"),
        ("time/own/seconds", "last,mean"),
        ("logit/cosine/mean", None),
    ],
)
def test_w_and_b_keeps_what_the_row_or_else_the_area_says(key: str, summary: str | None):
    assert summary_of(key) == summary


def test_the_table_needs_neither_pandas_nor_torch():
    script = "import sys; from analysis.metrics import metrics; metrics(); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
