"""The page of results: every claim of the experiments beside what the runs say of it, in Markdown.

Everything on the page is made from the runs and from the claims of `analysis/studies`; only its paragraph on
the method is written by hand, in the template.
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
from analysis.claims.verdicts import ROUNDING, Claim, Finding, judged
from analysis.plots.charts.save import Chart, save
from analysis.plots.figures.registry import charts
from analysis.reports.run_descriptions import made_from, missing, what_was_run
from analysis.results.collection import Collection, collect
from analysis.results.markdown import cell, linked, markdown, written
from editors.errors import DataError

SCALES: Mapping[str, str] = MappingProxyType(
    {"built-in": "", "real facts": "_facts", "paper scale": "_paper"}
)
"""Columns of the page, and what an experiment's folder has behind its name there."""

_DOTS = 110
"""Per inch, of the page's pictures."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim at one scale."""

    column: str
    verdict: str
    told: str
    """Value and interval, or the range over the cases."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A claim as the page wants it."""

    says: str
    source: str
    told: str
    quantity: str
    side: str
    threshold: str
    found: Sequence[Judged]
    cases: pd.DataFrame | None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file beside the page."""

    path: str
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Titled:
    """A table with what it is."""

    title: str
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Section:
    """An experiment."""

    name: str
    question: str
    lead: Sequence[str]
    claims: Sequence[Row]
    tables: Sequence[Titled]
    pictures: Sequence[Picture]


def write_results(roots: Sequence[Path], page: Path) -> list[str]:
    """Write the page, with pictures in a folder of its name beside it; returns the verdicts, a line each.

    Roots hold experiments' folders; a run in several counts once. Raises DataError where none is done.
    """
    found = {study.name: _collections(roots, study) for study in STUDIES}
    columns = [scale for scale in SCALES if any(scale in scales for scales in found.values())]
    if not columns:
        raise DataError(f"no run is finished in {' or '.join(map(str, roots))}: make paper computes them")
    page.parent.mkdir(parents=True, exist_ok=True)
    sections = [_section(study, found[study.name], columns, page) for study in STUDIES]
    shown = {picture.path for section in sections for picture in section.pictures}
    for stale in (page.parent / page.stem).glob("*.png"):
        if stale.relative_to(page.parent).as_posix() not in shown:
            stale.unlink()
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown: `cell` escapes every text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"cell": cell, "linked": linked, "table": markdown}
    text = templates.get_template("results.md.j2").render(
        lead=made_from([one for scales in found.values() for one in scales.values()]),
        columns=columns,
        sections=sections,
    )
    page.write_text(text.rstrip() + "\n", encoding="utf-8")
    return [
        f"{section.name}: {judgement.verdict} ({judgement.column}): {row.says}"
        for section in sections
        for row in section.claims
        for judgement in row.found
    ]


def _collections(roots: Sequence[Path], study: Study) -> dict[str, Collection]:
    """What was finished of an experiment, or else of the one that has the same runs, by scale."""
    found = {}
    for scale, suffix in SCALES.items():
        for name in filter(None, (study.name, study.same_as)):
            folders = [root / f"{name}{suffix}" for root in roots]
            if finished := [folder for folder in folders if any(folder.glob("*/DONE"))]:
                found[scale] = collect(*finished)
                break
    return found


def _section(study: Study, scales: Mapping[str, Collection], columns: Sequence[str], page: Path) -> Section:
    evidence = {scale: Evidence(collection) for scale, collection in scales.items()}
    return Section(
        name=study.name,
        question=study.question,
        lead=[f"{scale}: {what_was_run(collection)}" for scale, collection in scales.items()]
        or ["no run of it is finished"],
        claims=[_row(claim, evidence, columns) for claim in study.claims],
        tables=[*_tables(study, evidence)],
        pictures=[*_pictures(study, evidence, page)],
    )


def _row(claim: Claim, evidence: Mapping[str, Evidence], columns: Sequence[str]) -> Row:
    found = {scale: judged(claim, one) for scale, one in evidence.items()}
    tables = [
        _cases(finding).assign(scale=scale) for scale, finding in found.items() if len(finding.cases) > 1
    ]
    cases = pd.concat(tables, ignore_index=True) if tables else None
    if cases is not None and cases["scale"].nunique() == 1:
        cases = cases.drop(columns="scale")
    return Row(
        says=claim.says,
        source=claim.source,
        told=claim.told,
        quantity=claim.quantity,
        side=claim.side,
        threshold=written(float(claim.threshold))
        + (f" by at least {claim.least}" if claim.least > ROUNDING else "")
        + (f", a single repeat by at least {claim.alone}" if claim.alone else ""),
        found=[
            Judged(
                column=scale,
                verdict=found[scale].verdict,
                told=", ".join(filter(None, (_value(found[scale]), missing(evidence[scale].collection)))),
            )
            if scale in found
            else Judged(column=scale, verdict="–", told="")
            for scale in columns
        ],
        cases=cases,
    )


def _value(finding: Finding) -> str:
    """The value with its interval; of several cases how many hold, and from where to where they lie."""
    cases = finding.cases
    if cases.empty:
        return ""
    if len(cases) == 1:
        only = cases.iloc[0]
        if only["holds"] or only["broken"]:  # the interval tells that runs broke
            return _interval(only)
        return f"{_interval(only)}, {'speaks against it' if only['against'] else 'undecided'}"
    told = f"{int(cases['holds'].sum())} of {len(cases)} cases hold"
    undecided = ~cases["holds"] & ~cases["against"] & (cases["broken"] == 0)
    counts = {"speak against it": cases["against"], "undecided": undecided, "broke": cases["broken"] > 0}
    told += "".join(f", {which.sum()} {what}" for what, which in counts.items() if which.any())
    ordered = cases[cases["seeds"] > 0].sort_values("mean", kind="stable")
    if ordered.empty:
        return told
    least, most = ordered.iloc[0], ordered.iloc[-1]
    if _interval(least) == _interval(most):
        return f"{told}; {_interval(least)} in each"
    return f"{told}; from {_interval(least)} ({least['case']}) to {_interval(most)} ({most['case']})"


def _interval(case: pd.Series) -> str:
    broke = f", {case['broken']:.0f} more broke" if case["broken"] else ""
    mean = written(float(case["mean"]))
    if not case["seeds"] > 1 and case["low"] == case["high"]:
        return f"{mean}, {case['seeds']:.0f} repeat{broke}"
    interval = f"[{written(float(case['low']))}, {written(float(case['high']))}]"
    return f"{mean} {interval}, {case['seeds']:.0f} repeat{'s' if case['seeds'] > 1 else ''}{broke}"


def _cases(finding: Finding) -> pd.DataFrame:
    renamed = {"mean": "value", "seeds": "repeats"}
    shown = ["case", "mean", "low", "high", "seeds", "broken", "holds"]
    if not finding.cases["broken"].any():
        shown.remove("broken")
    whole = finding.cases.astype({"seeds": int, "broken": int}).sort_values("case")
    side = np.select([whole["holds"], whole["against"]], ["yes", "against"], "undecided")
    whole["holds"] = np.where(whole["broken"] > 0, "broke", side)
    # a single repeat has no interval, unless it came with one
    whole[["low", "high"]] = whole[["low", "high"]].where(
        (whole["seeds"] > 1) | (whole["low"] < whole["high"])
    )
    return whole[shown].rename(columns=renamed)


def _tables(study: Study, evidence: Mapping[str, Evidence]) -> Iterator[Titled]:
    for scale, one in evidence.items():
        for table in study.tables:
            rows = table.build(one)
            if len(rows):
                title = table.title if len(evidence) == 1 else f"{table.title} ({scale})"
                yield Titled(title=title, rows=rows)


def _pictures(study: Study, evidence: Mapping[str, Evidence], page: Path) -> Iterator[Picture]:
    """The study's figures and drawings at every scale, written beside the page."""
    for scale, one in evidence.items():
        built = ((drawing.name, drawing.caption, drawing.build(one)) for drawing in study.drawings)
        for name, caption, chart in (*_figures(study, one), *built):
            if chart is None:
                continue
            stem = page.parent / page.stem / f"{study.name}{SCALES[scale]}-{name}"
            (path,) = save(chart, stem, ["png"], dots=_DOTS)
            where = f" ({scale})" if len(evidence) > 1 else ""
            yield Picture(
                path=path.relative_to(page.parent).as_posix(),
                alt=f"{study.name}: {name}{where}",
                caption=f"{caption}{where}",
            )


def _figures(study: Study, evidence: Evidence) -> Iterator[tuple[str, str, Chart]]:
    """Name, caption and chart of the study's figures, with as many series each as can be told apart."""
    metrics = evidence.collection.metrics
    if study.series:
        metrics = metrics.assign(series=metrics["run"].map(evidence.cases(study.series)))
    names = sorted(metrics["series"].unique())
    if not study.series:  # what outgrows all others would flatten them
        largest = metrics[metrics["key"] == EDITED].groupby("series")["value"].max()
        names.sort(key=lambda name: (largest.get(name, 0.0), name))
    parts = [names[first : first + study.lines] for first in range(0, len(names), study.lines)]
    for place, chosen in enumerate(parts, start=1):
        # in this order, which is that of the colours
        shown = pd.concat([metrics[metrics["series"] == name] for name in chosen])
        for spec, chart in charts(shown, study.figures, at=study.at) if study.figures else []:
            name = spec.name if len(parts) == 1 else f"{spec.name}-{place}"
            yield name, spec.caption, chart
