"""Digests of the local files and folders that a run reads in addition to its configuration."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from editors.text_files import local_path
from pipeline.config.fingerprint import label
from pipeline.runs.layout import run_of

_KEYS = ("path", "folder")
_SOURCE, _UPDATES = "source", "updates"
"""The key that names an earlier run, and the folder of that run that is read."""
_WRITTEN = ("moments", "editor")
"""Groups in which `folder` is a cache written by the runs themselves."""
_END = 1 << 25
"""Bytes at each end of a file that are digested; this covers most files completely."""


def input_digests(config: Mapping[str, object]) -> dict[str, str]:
    """Digests of the local files and folders that a configuration names, by path.

    A digest covers names, sizes, and the first and last 32 MiB of every file.
    """
    paths = {text: local_path(text) for text in sorted(set(_input_paths(config)))}
    return {text: _digest(path) for text, path in paths.items() if path.exists()}


def recorded_inputs(folder: Path) -> Mapping[str, str]:
    """The digests that a run recorded in its `provenance.json`, by path."""
    return RunFolder(folder).provenance().get("inputs", {})


def check_inputs(folder: Path, before: Mapping[str, str]) -> None:
    """Raise a ConfigError if an existing file differs from the one that the run in this folder has read."""
    existing = {path: digest for path, digest in before.items() if local_path(path).exists()}
    changed = [path for path, digest in existing.items() if _digest(local_path(path)) != digest]
    if changed:
        raise ConfigError(
            f"{changed[0]} has changed since the run in {folder} read it: "
            "resume=never computes the run again, another name= keeps both"
        )


def _input_paths(node: object, trail: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths that a node of the configuration names; `trail` holds the keys that lead to it."""
    if isinstance(node, Mapping):
        if isinstance(source := node.get(_SOURCE), str):
            with suppress(ConfigError):  # reported when the run is replayed
                yield str(run_of(source, label(node, "model"), node.get("seed")) / _UPDATES)
        for key, value in node.items():
            yield from _input_paths(value, (*trail, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _input_paths(value, trail)
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
