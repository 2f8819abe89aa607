"""What a run reads beside its configuration: local files and folders, told apart by what they hold."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from pipeline.config.fingerprint import label
from pipeline.runs.layout import run_of

_KEYS = ("path", "folder")
_SOURCE, _UPDATES = "source", "updates"
"""Key that names an earlier run, whose updates are read."""
_WRITTEN = ("moments", "editor")
"""Groups whose `folder` is a cache that runs write themselves."""
_END = 1 << 25
"""Bytes at the beginning and at the end of a file that are looked at; of most files that is all of it."""


def inputs(config: Mapping[str, object]) -> dict[str, str]:
    """Digests of the local files and folders that a configuration names, by path.

    A digest is of names, sizes, and the first and last 32 MiB of every file.
    """
    return {text: _digest(Path(text)) for text in sorted(set(_named(config))) if Path(text).exists()}


def inputs_of(folder: Path) -> Mapping[str, str]:
    """What the run in a folder has read, as its `provenance.json` tells."""
    return RunFolder(folder).provenance().get("inputs", {})


def check_inputs(folder: Path, before: Mapping[str, str]) -> None:
    """Raise a ConfigError where a file that is still there is not what the run in this folder has read."""
    there = {path: digest for path, digest in before.items() if Path(path).exists()}
    changed = [path for path, digest in there.items() if _digest(Path(path)) != digest]
    if changed:
        raise ConfigError(
            f"{changed[0]} has changed since the run in {folder} read it: "
            "resume=never computes the run anew, another name= keeps both"
        )


def _named(node: object, trail: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(source := node.get(_SOURCE), str):
            with suppress(ConfigError):  # reported when the run is replayed
                yield str(run_of(source, label(node, "model"), node.get("seed")) / _UPDATES)
        for key, value in node.items():
            yield from _named(value, (*trail, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _named(value, trail)
    elif isinstance(node, str) and node and trail[-1] in _KEYS:
        is_cache = trail[-1] == "folder" and set(trail) & set(_WRITTEN)
        yield from () if is_cache else (node,)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path).as_posix()}\n{size}\n".encode())
            with file.open("rb") as content:
                digest.update(content.read(_END))
                content.seek(max(size - _END, content.tell()))
                digest.update(content.read(_END))
    return digest.hexdigest()[:16]
