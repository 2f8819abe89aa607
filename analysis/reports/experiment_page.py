"""The page of one experiment: its claims with their cases, its tables and its pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.study import Study
from analysis.claims.verdicts import ROUNDING, Claim, Finding, judge
from analysis.plots.charts.save import save
from analysis.reports.run_descriptions import missing, what_was_run
from analysis.reports.study_figures import figures
from analysis.results.markdown import written
from analysis.spelling import spelled

DOTS_PER_INCH = 220
"""Resolution of the pictures, per inch."""
_NAMED = ("editor", "editors", "sequence", "series", "regularizers")
"""Columns of tables that name methods."""


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


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file beside the page."""

    path: str
    """Its name in the folder of the page."""
    drawing: str
    """Name of the same as SVG."""
    name: str
    """Name of the figure."""
    scale: str
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
    protocol: str
    """What the source did."""
    threats: Sequence[str]
    """What may be wrong with it."""
    cases: pd.DataFrame
    """Every case of every claim, with the columns of `Finding.cases`."""


def section(
    study: Study, evidence: Mapping[str, Evidence], folder: Path, suffixes: Mapping[str, str]
) -> Section:
    """The section of an experiment whose runs are `evidence`, by scale; writes its pictures to the folder.

    `suffixes` tells pictures of one scale from those of another.
    """
    findings = [{scale: judge(claim, one) for scale, one in evidence.items()} for claim in study.claims]
    return Section(
        name=study.name,
        question=study.question,
        lead=[f"{scale}: {what_was_run(one.collection)}" for scale, one in evidence.items()],
        claims=[
            _claim_row(claim, found, evidence) for claim, found in zip(study.claims, findings, strict=True)
        ],
        tables=[*_tables(study, evidence)],
        pictures=[*_pictures(study, evidence, folder, suffixes)],
        protocol=study.protocol,
        threats=study.threats,
        cases=_all_cases(findings),
    )


def _all_cases(findings: Sequence[Mapping[str, Finding]]) -> pd.DataFrame:
    """One row per claim, scale and case."""
    tables = [
        found.cases.assign(claim=found.claim.statement, scale=scale, verdict=found.verdict)
        for of_claim in findings
        for scale, found in of_claim.items()
        if len(found.cases)
    ]
    if not tables:
        return pd.DataFrame()
    first = ["claim", "scale", "verdict"]
    return pd.concat(tables, ignore_index=True).pipe(lambda rows: rows[[*first, *rows.columns.drop(first)]])


def brief(finding: Finding) -> str:
    """The value with its interval, or how many cases hold and the range of their values."""
    cases = finding.cases[finding.cases["seeds"] > 0] if len(finding.cases) else finding.cases
    if cases.empty:
        return ""
    if len(cases) == 1:
        return _interval(cases.iloc[0])
    means = cases["mean"].astype(float)
    return (
        f"{int(finding.cases['holds'].sum())} of {len(finding.cases)}: {written(means.min())} to "
        f"{written(means.max())}"
    )


def _claim_row(claim: Claim, findings: Mapping[str, Finding], evidence: Mapping[str, Evidence]) -> ClaimRow:
    return ClaimRow(
        statement=claim.statement,
        source=claim.source,
        reported=claim.reported,
        quantity=claim.quantity,
        side=claim.side,
        threshold=_threshold(claim),
        verdicts=[_scale_verdict(scale, finding, evidence[scale]) for scale, finding in findings.items()],
    )


def _threshold(claim: Claim) -> str:
    effect, alone = claim.smallest_effect, claim.smallest_effect_alone
    by_effect = f" by at least {effect}" if effect > ROUNDING else ""
    by_alone = f", a single repeat by at least {alone}" if alone else ""
    return written(float(claim.threshold)) + by_effect + by_alone


def _scale_verdict(scale: str, finding: Finding, evidence: Evidence) -> ScaleVerdict:
    parts = (value(finding), detectable(finding), trend(finding), missing(evidence.collection))
    details = ", ".join(filter(None, parts))
    return ScaleVerdict(column=scale, verdict=finding.verdict, details=details)


def value(finding: Finding) -> str:
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
    ends = [f"{_interval(case)} ({spelled(case['case'])})" for case in (least, most)]
    return f"{text}; from {' to '.join(ends)}"


def detectable(finding: Finding) -> str:
    """The effects that would have been seen, where none was; empty for other verdicts."""
    if finding.verdict not in ("not seen", "untested") or finding.cases.empty:
        return ""
    effects = finding.cases["detectable"].astype(float).dropna()
    if effects.empty:
        return ""
    ends = dict.fromkeys(written(float(end)) for end in (effects.min(), effects.max()))
    unit = " of the logarithm" if finding.claim.ratio else ""
    return f"minimum detectable effect {' to '.join(ends)}{unit}"


def trend(finding: Finding) -> str:
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


def _tables(study: Study, evidence: Mapping[str, Evidence]) -> Iterator[TitledTable]:
    for scale, one in evidence.items():
        for table in study.tables:
            rows = table.build(one)
            if len(rows):
                title = table.title if len(evidence) == 1 else f"{table.title} ({scale})"
                named = {name: rows[name].astype(str).map(spelled) for name in _NAMED if name in rows}
                yield TitledTable(title=title, rows=rows.assign(**named))


def _pictures(
    study: Study, evidence: Mapping[str, Evidence], folder: Path, suffixes: Mapping[str, str]
) -> Iterator[Picture]:
    """The study's figures and drawings at every scale, written into the folder."""
    for scale, one in evidence.items():
        drawings = ((drawing.name, drawing.caption, drawing.build(one)) for drawing in study.drawings)
        for name, caption, chart in (*figures(study, one), *drawings):
            if chart is None:
                continue
            stem = folder / f"{study.name}{suffixes.get(scale, '')}-{name}"
            path, drawing = save(chart, stem, ["png", "svg"], dots=DOTS_PER_INCH)
            where = f" ({scale})" if len(evidence) > 1 else ""
            yield Picture(
                path=path.name,
                drawing=drawing.name,
                name=name,
                scale=scale,
                alt=f"{study.name}: {name}{where}",
                caption=f"{caption}{where}",
            )
