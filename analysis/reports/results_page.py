"""The page of results in Markdown: every claim of the experiments with its verdict.

The page is computed from the runs and from the claims of `analysis/claims/studies`; only its paragraphs on
the method are written by hand, in the template.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import jinja2
import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.registry import STUDIES
from analysis.claims.study import EDITED, Study
from analysis.claims.verdicts import ROUNDING, Claim, Finding, judge
from analysis.plots.charts.save import Chart, save
from analysis.plots.figures.registry import charts
from analysis.reports.run_descriptions import made_from, missing, what_was_run
from analysis.results.collection import Collection, collect
from analysis.results.markdown import cell, linked, markdown, written
from analysis.results.run_folder import runs_in
from editors.errors import DataError

SCALES: Mapping[str, str] = MappingProxyType(
    {"built-in": "", "SmolLM2": "_counterfact", "real facts": "_facts", "paper scale": "_paper"}
)
"""Columns of the page, each with the suffix of its experiments' folders."""

_DOTS = 110
"""Resolution of the page's pictures, per inch."""


@dataclass(frozen=True, kw_only=True)
class ScaleVerdict:
    """The verdict on a claim at one scale."""

    column: str
    verdict: str
    details: str
    """Value and interval, or the range over the cases."""


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """A claim as the template shows it."""

    statement: str
    source: str
    reported: str
    quantity: str
    side: str
    threshold: str
    verdicts: Sequence[ScaleVerdict]
    cases: pd.DataFrame | None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file beside the page."""

    path: str
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class TitledTable:
    """A table with its title."""

    title: str
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Section:
    """The section of an experiment."""

    name: str
    question: str
    lead: Sequence[str]
    claims: Sequence[ClaimRow]
    tables: Sequence[TitledTable]
    pictures: Sequence[Picture]


def write_results(roots: Sequence[Path], page: Path) -> list[str]:
    """Write the page, and its pictures into a folder of the same name; returns one line per verdict.

    Roots hold the folders of experiments; a run found in several counts once. Raises DataError if no run is
    finished.
    """
    collections = {study.name: _collections(roots, study) for study in STUDIES}
    columns = [scale for scale in SCALES if any(scale in scales for scales in collections.values())]
    if not columns:
        raise DataError(f"no run is finished in {' or '.join(map(str, roots))}: make paper computes them")
    page.parent.mkdir(parents=True, exist_ok=True)
    sections = [_section(study, collections[study.name], columns, page) for study in STUDIES]
    _delete_stale_pictures(page, {picture.path for section in sections for picture in section.pictures})
    lead = made_from([one for scales in collections.values() for one in scales.values()])
    text = _template().render(lead=lead, columns=columns, sections=sections)
    page.write_text(text.rstrip() + "\n", encoding="utf-8")
    return [
        f"{section.name}: {verdict.verdict} ({verdict.column}): {claim.statement}"
        for section in sections
        for claim in section.claims
        for verdict in claim.verdicts
    ]


def _delete_stale_pictures(page: Path, current: set[str]) -> None:
    """Delete the pictures that the page, as it was until now, shows and will no longer show.

    Other files in the folder of the same name are not its own.
    """
    before = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    for picture in (page.parent / page.stem).glob("*.png"):
        path = picture.relative_to(page.parent).as_posix()
        if path not in current and f"({path})" in before:
            picture.unlink()


def _template() -> jinja2.Template:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown: `cell` escapes every text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"cell": cell, "linked": linked, "table": markdown}
    return templates.get_template("results.md.j2")


def _collections(roots: Sequence[Path], study: Study) -> dict[str, Collection]:
    """The finished runs of an experiment by scale, or those of the experiment that has the same runs."""
    collections = {}
    for scale, suffix in ({study.scale: ""} if study.scale else SCALES).items():
        for name in filter(None, (study.name, study.same_as)):
            folders = [root / f"{name}{suffix}" for root in roots]
            if finished := [folder for folder in folders if any(run.is_done for run in runs_in(folder))]:
                collections[scale] = collect(*finished)
                break
    return collections


def _section(study: Study, scales: Mapping[str, Collection], columns: Sequence[str], page: Path) -> Section:
    evidence = {scale: Evidence(collection) for scale, collection in scales.items()}
    return Section(
        name=study.name,
        question=study.question,
        lead=[f"{scale}: {what_was_run(collection)}" for scale, collection in scales.items()]
        or ["no run of it is finished"],
        claims=[_claim_row(claim, evidence, columns) for claim in study.claims],
        tables=[*_tables(study, evidence)],
        pictures=[*_pictures(study, evidence, page)],
    )


def _claim_row(claim: Claim, evidence: Mapping[str, Evidence], columns: Sequence[str]) -> ClaimRow:
    findings = {scale: judge(claim, one) for scale, one in evidence.items()}
    return ClaimRow(
        statement=claim.statement,
        source=claim.source,
        reported=claim.reported,
        quantity=claim.quantity,
        side=claim.side,
        threshold=_threshold(claim),
        verdicts=[
            _scale_verdict(scale, findings[scale], evidence[scale])
            if scale in findings
            else ScaleVerdict(column=scale, verdict="–", details="")
            for scale in columns
        ],
        cases=_case_table(findings),
    )


def _threshold(claim: Claim) -> str:
    effect, alone = claim.smallest_effect, claim.smallest_effect_alone
    by_effect = f" by at least {effect}" if effect > ROUNDING else ""
    by_alone = f", a single repeat by at least {alone}" if alone else ""
    return written(float(claim.threshold)) + by_effect + by_alone


def _scale_verdict(scale: str, finding: Finding, evidence: Evidence) -> ScaleVerdict:
    details = ", ".join(filter(None, (_value(finding), _trend(finding), missing(evidence.collection))))
    return ScaleVerdict(column=scale, verdict=finding.verdict, details=details)


def _case_table(findings: Mapping[str, Finding]) -> pd.DataFrame | None:
    """The cases of all scales with several cases; None without any."""
    tables = [
        _cases(finding).assign(scale=scale) for scale, finding in findings.items() if len(finding.cases) > 1
    ]
    if not tables:
        return None
    cases = pd.concat(tables, ignore_index=True)
    return cases.drop(columns="scale") if cases["scale"].nunique() == 1 else cases


def _value(finding: Finding) -> str:
    """The value with its interval; for several cases, how many hold and the range of their values."""
    cases = finding.cases
    if cases.empty:
        return ""
    if len(cases) == 1:
        only = cases.iloc[0]
        if only["holds"] or only["broken"]:  # the interval mentions broken runs
            return _interval(only)
        return f"{_interval(only)}, {'speaks against it' if only['against'] else 'undecided'}"
    text = f"{int(cases['holds'].sum())} of {len(cases)} cases hold"
    undecided = ~cases["holds"] & ~cases["against"] & (cases["broken"] == 0)
    counts = {"speak against it": cases["against"], "undecided": undecided, "broke": cases["broken"] > 0}
    text += "".join(f", {is_so.sum()} {words}" for words, is_so in counts.items() if is_so.any())
    ordered = cases[cases["seeds"] > 0].sort_values("mean", kind="stable")
    if ordered.empty:
        return text
    least, most = ordered.iloc[0], ordered.iloc[-1]
    if _interval(least) == _interval(most):
        return f"{text}; {_interval(least)} in each"
    return f"{text}; from {_interval(least)} ({least['case']}) to {_interval(most)} ({most['case']})"


def _trend(finding: Finding) -> str:
    """How far runs are from the source's length, and where the trend leads; empty if they are as long."""
    if not finding.is_short or finding.verdict != "untested":
        return ""
    text = f"{finding.length:,} of the source's {finding.claim.source_length:,} edits or steps"
    if finding.trend is None:
        return text
    if finding.reach is None:
        return f"{text}, the trend leads away from it"
    return f"{text}, by the trend reached at {written(float(f'{finding.reach:.2g}'))}"


def _interval(case: pd.Series) -> str:
    broke = f", {case['broken']:.0f} more broke" if case["broken"] else ""
    mean = written(float(case["mean"]))
    if not case["seeds"] > 1 and case["low"] == case["high"]:
        return f"{mean}, {case['seeds']:.0f} repeat{broke}"
    interval = f"[{written(float(case['low']))}, {written(float(case['high']))}]"
    return f"{mean} {interval}, {case['seeds']:.0f} repeat{'s' if case['seeds'] > 1 else ''}{broke}"


def _cases(finding: Finding) -> pd.DataFrame:
    """The cases of a finding with the headings of the page."""
    renamed = {"mean": "value", "seeds": "repeats", "detectable": "detectable effect"}
    columns = ["case", "mean", "low", "high", "seeds", "broken", "detectable", "holds"]
    if not finding.cases["broken"].any():
        columns.remove("broken")
    cases = finding.cases.astype({"seeds": int, "broken": int}).sort_values("case")
    side = np.select([cases["holds"], cases["against"]], ["yes", "against"], "undecided")
    cases["holds"] = np.where(cases["broken"] > 0, "broke", side)
    # a single repeat has no interval, unless the measure computed one
    cases[["low", "high"]] = cases[["low", "high"]].where(
        (cases["seeds"] > 1) | (cases["low"] < cases["high"])
    )
    return cases[columns].rename(columns=renamed)


def _tables(study: Study, evidence: Mapping[str, Evidence]) -> Iterator[TitledTable]:
    for scale, one in evidence.items():
        for table in study.tables:
            rows = table.build(one)
            if len(rows):
                title = table.title if len(evidence) == 1 else f"{table.title} ({scale})"
                yield TitledTable(title=title, rows=rows)


def _pictures(study: Study, evidence: Mapping[str, Evidence], page: Path) -> Iterator[Picture]:
    """The study's figures and drawings at every scale, written beside the page."""
    for scale, one in evidence.items():
        drawings = ((drawing.name, drawing.caption, drawing.build(one)) for drawing in study.drawings)
        for name, caption, chart in (*_figures(study, one), *drawings):
            if chart is None:
                continue
            suffix = "" if study.scale else SCALES[scale]
            stem = page.parent / page.stem / f"{study.name}{suffix}-{name}"
            (path,) = save(chart, stem, ["png"], dots=_DOTS)
            where = f" ({scale})" if len(evidence) > 1 else ""
            yield Picture(
                path=path.relative_to(page.parent).as_posix(),
                alt=f"{study.name}: {name}{where}",
                caption=f"{caption}{where}",
            )


def _figures(study: Study, evidence: Evidence) -> Iterator[tuple[str, str, Chart]]:
    """Name, caption and chart of the study's figures; many series are split over several pictures."""
    metrics = evidence.collection.metrics
    if study.series:
        metrics = metrics.assign(series=metrics["run"].map(evidence.cases(study.series)))
    names = sorted(metrics["series"].unique())
    if not study.series:  # together in one picture, the largest would flatten the others
        largest = metrics[metrics["key"] == EDITED].groupby("series")["value"].max()
        names.sort(key=lambda name: (largest.get(name, 0.0), name))
    parts = [names[first : first + study.lines] for first in range(0, len(names), study.lines)]
    for place, part in enumerate(parts, start=1):
        # colours follow the order of the rows
        rows = pd.concat([metrics[metrics["series"] == name] for name in part])
        for spec, chart in charts(rows, study.figures, at=study.at) if study.figures else []:
            name = spec.name if len(parts) == 1 else f"{spec.name}-{place}"
            yield name, spec.caption, chart
