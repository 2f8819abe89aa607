"""The results in Markdown: one screen with the headline claims, and a page for every experiment.

All is computed from the runs and from the claims of `analysis/claims`; docs/method.md, written by hand, tells
the rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import jinja2

from analysis.claims.discoveries import DISCOVERIES, SHOWN
from analysis.claims.evidence import Evidence
from analysis.claims.headlines import BUILT_IN, HEADLINES, REAL, findings
from analysis.claims.hero import CAPTION, CONTROLS, SEQUENCES, hero
from analysis.claims.registry import STUDIES
from analysis.claims.study import Study
from analysis.claims.verdicts import Finding
from analysis.plots.charts.hero import draw_hero
from analysis.plots.charts.save import save_figure
from analysis.reports.experiment_page import DOTS_PER_INCH, Picture, Section, brief, section, trend
from analysis.reports.run_descriptions import made_from
from analysis.results.collection import collect
from analysis.results.markdown import cell, linked, markdown
from analysis.results.run_folder import runs_in
from editors.errors import DataError

SCALES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        BUILT_IN: ("",),
        REAL: ("_counterfact", "_real"),
        "real facts": ("_facts",),
        "paper scale": ("_paper",),
    }
)
"""Kinds of models, each with the endings of its experiments' folders; the first that has runs is read."""
DOTS: Mapping[str, str] = MappingProxyType(
    {"confirmed": "🟢", "partly": "🟡", "not seen": "🔴", "untested": "⚪"}
)

_Evidence = Mapping[str, Mapping[str, Evidence]]
"""The runs by experiment and scale."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A headline claim as the template shows it."""

    words: str
    number: str
    values: Sequence[str]
    """The value on the real model and on the built-in ones."""
    verdicts: Sequence[tuple[str, str]]
    """Verdicts with the columns that they are of; no column where all agree."""
    experiment: str
    """The experiment that decides it; empty if nothing was run."""
    picture: str
    """Its picture, if the experiment has one of this kind."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sentence about the runs, with its picture."""

    sentence: str
    scale: str
    experiment: str
    picture: Picture | None


def write_results(roots: Sequence[Path], page: Path) -> list[str]:
    """Write the page, and a folder of its name with a page, cases and pictures of every experiment.

    Roots hold the folders of experiments; a run found in several counts once. Returns one line per verdict.
    Raises DataError if no run is finished.
    """
    evidence = {study.name: _scales(roots, study) for study in STUDIES}
    if not any(evidence.values()):
        raise DataError(f"no run is finished in {' or '.join(map(str, roots))}: make paper computes them")
    folder = page.parent / page.stem
    folder.mkdir(parents=True, exist_ok=True)
    shown = _shown(folder)
    sections = {
        study.name: section(study, evidence[study.name], folder, _suffixes(study))
        for study in STUDIES
        if evidence[study.name]
    }
    for name, each in sections.items():
        _write(folder / f"{name}.md", "experiment", section=each)
        each.cases.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    pictures = [picture for each in sections.values() for picture in each.pictures]
    current = {name for picture in pictures for name in (picture.path, picture.drawing)}
    for name in shown - current:  # pictures that the pages, as they were until now, showed and show no more
        (folder / name).unlink(missing_ok=True)
    _write(
        page,
        "results",
        hero=_hero(evidence, folder),
        lead=made_from([one.collection for scales in evidence.values() for one in scales.values()]),
        rows=_rows(evidence, sections),
        found=_found(evidence, sections),
        sections=sections.values(),
        folder=page.stem,
        dots=DOTS,
        columns=(REAL, BUILT_IN),
    )
    return [
        f"{name}: {verdict.verdict} ({verdict.column}): {claim.statement}"
        for name, each in sections.items()
        for claim in each.claims
        for verdict in claim.verdicts
    ]


def _scales(roots: Sequence[Path], study: Study) -> dict[str, Evidence]:
    """The finished runs of an experiment by scale, or those of the experiment that has the same runs."""
    found = {}
    for scale, suffixes in SCALES.items():
        endings = suffixes if not study.scale else ("",) if scale == study.scale else ()
        names = [
            f"{name}{ending}" for name in filter(None, (study.name, study.same_as)) for ending in endings
        ]
        for name in names:
            folders = [root / name for root in roots]
            if finished := [folder for folder in folders if any(run.is_done for run in runs_in(folder))]:
                found[scale] = Evidence(collect(*finished))
                break
    return found


def _suffixes(study: Study) -> Mapping[str, str]:
    """What the names of an experiment's pictures end in, by scale."""
    return {} if study.scale else {scale: endings[0] for scale, endings in SCALES.items()}


def _hero(evidence: _Evidence, folder: Path) -> str:
    """The figure at the top, written into the folder: its caption, or nothing without the runs for it."""
    for column, name in SEQUENCES.items():
        sequences, controls = evidence[name].get(column), evidence[CONTROLS].get(column)
        chart = hero(sequences, controls) if sequences and controls else None
        if chart is not None:
            save_figure(partial(draw_hero, chart), folder / "hero", ["png", "svg"], dots=DOTS_PER_INCH)
            return f"{column}: {CAPTION}."
    return ""


def _rows(evidence: _Evidence, sections: Mapping[str, Section]) -> list[Row]:
    """The rows of the first screen."""
    columns = {
        column: findings(
            column, {name: scales[column] for name, scales in evidence.items() if column in scales}
        )
        for column in (REAL, BUILT_IN)
    }
    rows = []
    for place, headline in enumerate(HEADLINES):
        found = {column: each[place] for column, each in columns.items()}
        decides = next((column for column, one in found.items() if one), None)
        answer = headline.claim(decides) if decides else None
        name = answer[0].name if answer else ""
        picture = _picture(sections, name, decides or "", headline.picture)
        rows.append(
            Row(
                words=headline.words,
                number=headline.number,
                values=[_headline_value(each) for each in found.values()],
                verdicts=_verdicts(found),
                experiment=name,
                picture=picture.path if picture else "",
            )
        )
    return rows


def _verdicts(found: Mapping[str, Finding | None]) -> list[tuple[str, str]]:
    """The verdict where all columns agree, else that of each."""
    given = {column: one.verdict for column, one in found.items() if one}
    if len({*given.values()}) < 2:
        return [(next(iter(given.values()), "untested"), "")]
    return [(verdict, column) for column, verdict in given.items()]


def _headline_value(finding: Finding | None) -> str:
    return ", ".join(filter(None, (brief(finding), trend(finding)))) if finding else "–"


def _found(evidence: _Evidence, sections: Mapping[str, Section]) -> list[Found]:
    """The first sentences that the runs have numbers for, each of the real model if it has them."""
    found = []
    for each in DISCOVERIES:
        scales = evidence[each.experiment]
        for scale in filter(scales.__contains__, (REAL, *SCALES)):
            if sentence := each.sentence(scales[scale]):
                picture = _picture(sections, each.experiment, scale, each.picture)
                found.append(
                    Found(sentence=sentence, scale=scale, experiment=each.experiment, picture=picture)
                )
                break
    return found[:SHOWN]


def _picture(sections: Mapping[str, Section], experiment: str, scale: str, name: str) -> Picture | None:
    """The first picture of this figure and scale, if there is one."""
    pictures = sections[experiment].pictures if experiment in sections and name else []
    return next((each for each in pictures if each.scale == scale and each.name.startswith(name)), None)


def _shown(folder: Path) -> set[str]:
    """Pictures of the folder that its pages show; other files there are not theirs."""
    texts = [page.read_text(encoding="utf-8", errors="replace") for page in folder.glob("*.md")]
    files = {path.name for ending in ("png", "svg") for path in folder.glob(f"*.{ending}")}
    return {name for name in files if any(f"({name})" in text for text in texts)}


def _write(path: Path, template: str, **values: object) -> None:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown: `cell` escapes every text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"cell": cell, "linked": linked, "table": markdown}
    text = templates.get_template(f"{template}.md.j2").render(**values)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
