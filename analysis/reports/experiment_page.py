"""The page of one experiment: its claims with their cases, its tables and its pictures."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.study import EDITED, Study
from analysis.claims.verdicts import ROUNDING, Claim, Finding, judge
from analysis.plots.charts.canvas import PALETTE
from analysis.plots.charts.lines import LineChart
from analysis.plots.charts.save import Chart, save
from analysis.plots.figures.registry import FigureSpec, charts
from analysis.reports.run_descriptions import missing, what_was_run
from analysis.results.markdown import written

_PANELS = 12
"""Most panels of a picture with a group of them for every value; further ones of each group are left out."""
DOTS_PER_INCH = 220
"""Resolution of the pictures, per inch."""


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
    return Section(
        name=study.name,
        question=study.question,
        lead=[f"{scale}: {what_was_run(one.collection)}" for scale, one in evidence.items()],
        claims=[_claim_row(claim, evidence) for claim in study.claims],
        tables=[*_tables(study, evidence)],
        pictures=[*_pictures(study, evidence, folder, suffixes)],
        protocol=study.protocol,
        threats=study.threats,
        cases=_all_cases(study, evidence),
    )


def _all_cases(study: Study, evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """One row per claim, scale and case."""
    findings = [(scale, judge(claim, one)) for claim in study.claims for scale, one in evidence.items()]
    tables = [
        found.cases.assign(claim=found.claim.statement, scale=scale, verdict=found.verdict)
        for scale, found in findings
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


def _claim_row(claim: Claim, evidence: Mapping[str, Evidence]) -> ClaimRow:
    findings = {scale: judge(claim, one) for scale, one in evidence.items()}
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
    return f"{text}; from {_interval(least)} ({least['case']}) to {_interval(most)} ({most['case']})"


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
                yield TitledTable(title=title, rows=rows)


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
            (path,) = save(chart, stem, ["png"], dots=DOTS_PER_INCH)
            where = f" ({scale})" if len(evidence) > 1 else ""
            yield Picture(
                path=path.name,
                name=name,
                scale=scale,
                alt=f"{study.name}: {name}{where}",
                caption=f"{caption}{where}",
            )


def _faceted(study: Study, groups: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str, Chart]]:
    """The figures whose panels are those of every group of rows, with its name in their titles."""
    found: dict[str, list[tuple[str, FigureSpec, Chart]]] = {}
    for name, rows in groups.items():
        ordered = rows.sort_values("series", kind="stable")
        for spec, chart in charts(ordered, study.figures, at=study.at):
            found.setdefault(spec.name, []).append((name, spec, chart))
    for figure, parts in found.items():
        _, spec, first = parts[0]
        if not isinstance(first, LineChart):
            for name, _, chart in parts:
                yield f"{figure}-{stem(name)}", f"{spec.caption} ({name})", chart
            continue
        most = max(1, _PANELS // len(parts))
        panels = tuple(
            replace(panel, title=": ".join(filter(None, (name, panel.title))))
            for name, _, chart in parts
            if isinstance(chart, LineChart)
            for panel in chart.panels[:most]
        )
        yield figure, spec.caption, replace(first, panels=panels)


def stem(name: str) -> str:
    """A part of a file's name: letters, digits and hyphens."""
    return re.sub(r"[^\w]+", "-", name).strip("-")


def figures(study: Study, evidence: Evidence) -> Iterator[tuple[str, str, Chart]]:
    """Name, caption and chart of the study's figures; many series are split over several pictures."""
    metrics = evidence.collection.metrics
    if study.series:
        lines = [key for key in study.series if key not in study.facets]
        names = evidence.cases(lines).replace("", "none")  # of runs without a regularizer
        metrics = metrics.assign(series=metrics["run"].map(names))
    facets = evidence.cases(study.facets) if study.facets else pd.Series(dtype=str)
    if facets.nunique() > 1:
        labels = sorted(metrics["series"].unique())
        colours = {label: PALETTE[place % len(PALETTE)] for place, label in enumerate(labels)}
        rows = metrics.assign(colour=metrics["series"].map(colours))
        groups = rows.groupby(metrics["run"].map(facets), sort=True)
        yield from _faceted(study, {str(name): rows for name, rows in groups})
        return
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
