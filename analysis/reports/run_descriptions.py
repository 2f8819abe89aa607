"""Descriptions in words of the runs behind the page of results."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.results.collection import Collection
from analysis.results.tables import SCORES
from analysis.units import UNITS, amounts

_VERSIONS = ("torch", "transformers", "normscope")
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"batch_size": "batches of", "layers.edit": "blocks", "intervention.learning_rate": "learning rates"}
)
"""Settings in the description, with the words before their values."""
_IN_ROUNDS = "facts, edited in rounds, each time to another object; only the edits that stand are scored"


def what_was_run(collection: Collection) -> str:
    """One line that describes the runs of a collection."""
    runs = collection.runs
    cycling = [one for one in collection.settings.values() if one.get("intervention.cycle") == "true"]
    seeds = sorted({int(seed) for seed in runs["seed"]})
    models = ", ".join(dict.fromkeys(map(str, runs["model"])))
    settings = {
        key: sorted({one.get(key, "null") for one in collection.settings.values()} - {"null", "[]"})
        for key in _SETTINGS
    }
    lengths = {unit: amounts(runs[unit], unit) for unit in UNITS}
    if len({*runs["edits"]} - {0}) > 1 and len(settings["batch_size"]) > 1:  # they need not be crossed
        lengths["edits"], settings["batch_size"] = _sequences(collection), []
    parts = [
        f"{len(runs)} finished runs of {runs['name'].iloc[0]}, {runs['seconds'].sum():.0f} s of computing",
        f"seeds {', '.join(map(str, seeds))}",
        f"models {models}",
        *filter(None, lengths.values()),
        *(f"{words} {', '.join(settings[key])}" for key, words in _SETTINGS.items() if settings[key]),
        *(f"{facts} {_IN_ROUNDS}" for facts in sorted({one["data.limit"] for one in cycling})),
        *_unedited(collection),
    ]
    if collection.unfinished:
        first = collection.unfinished[0]
        parts.append(f"{missing(collection)}, the first ({first.status}): {first.sentence}")
    return "; ".join(parts)


def _sequences(collection: Collection) -> str:
    """The number of runs that edit, by length and size of batch."""
    runs = collection.runs[collection.runs["edits"] > 0]
    sizes = runs["run"].map({run: one.get("batch_size", "?") for run, one in collection.settings.items()})
    counts = runs.groupby(["edits", sizes]).size().reset_index(name="count")
    return "; ".join(
        f"{count} of {edits} edits in batches of {batch}"
        for edits, batch, count in counts.itertuples(index=False)
    )


def _unedited(collection: Collection) -> list[str]:
    """Downstream accuracy before anything was changed, if it was measured."""
    first = Evidence(collection).first(SCORES["downstream"])
    if first.empty:
        return []
    ends = dict.fromkeys((f"{first.min():.3f}", f"{first.max():.3f}"))
    return [f"downstream accuracy of the unedited model {' to '.join(ends)}"]


def missing(collection: Collection) -> str:
    """The number of unfinished runs as text; empty if all are finished."""
    count = len(collection.unfinished)
    return f"{count} {'run is' if count == 1 else 'runs are'} not finished" if count else ""


def _versions(trees: Iterable[Mapping[str, str]], key: str) -> str:
    return ", ".join(sorted({tree[key] for tree in trees if key in tree}))


def made_from(collections: Sequence[Collection]) -> str:
    """A sentence with the number of runs, their computing time, versions and commits."""
    runs = pd.concat([one.runs for one in collections]).drop_duplicates(["name", "run"])
    # experiments can share runs
    trees = {
        (name, run): one.provenance[run]
        for one in collections
        for name, run in one.runs[["name", "run"]].itertuples(index=False)
    }.values()
    versions = [f"{name} {text}" for name in _VERSIONS if (text := _versions(trees, f"packages.{name}"))]
    commits = ", ".join(commit[:10] for commit in _versions(trees, "git.commit").split(", "))
    changed = sum(tree.get("git.dirty") == "true" for tree in trees)
    beside = f", {changed} of the runs with changes that were not committed" if changed else ""
    return (
        f"Made by `python -m analysis results` from {len(runs)} runs, {runs['seconds'].sum() / 3600:.1f} "
        f"hours of computing together, with {', '.join(versions)}, at commit {commits}{beside}."
    )
