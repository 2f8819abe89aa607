"""Digests of the local files and folders that a run reads in addition to its configuration."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from xxhash import xxh3_128

from analysis.results.run_folder import RunFolder
from editors.errors import ConfigError
from editors.models.stored.gguf_header import located
from pipeline.config.fingerprint import label
from pipeline.runs.layout import run_of

_KEYS = ("path", "paths", "folder", "gguf")
_SOURCE, _UPDATES = "source", "updates"
"""The key that names an earlier run, and the folder of that run that is read."""
_WRITTEN = ("moments", "editor")
"""Groups in which `folder` is a cache written by the runs themselves."""
_OLDER, _END = 16, 1 << 25
"""Length of digests of older runs, and the bytes at each end of a file that these cover."""


def input_digests(config: Mapping[str, object]) -> dict[str, str]:
    """Digests of the local files and folders that a configuration names, by path.

    A digest covers names and all bytes of every file.
    """
    paths = {text: located(text) for text in sorted(set(_input_paths(config)))}
    return {text: _digest(path) for text, path in paths.items() if path and path.exists()}


def recorded_inputs(folder: Path) -> Mapping[str, str]:
    """The digests that a run recorded in its `provenance.json`, by path."""
    return RunFolder(folder).provenance().get("inputs", {})


def check_inputs(folder: Path, before: Mapping[str, str]) -> None:
    """Raise a ConfigError if an existing file differs from the one that the run in this folder has read."""
    paths = {text: path for text in before if (path := located(text)) and path.exists()}
    changed = [text for text, path in paths.items() if _as_before(before[text])(path) != before[text]]
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


def _as_before(digest: str) -> Callable[[Path], str]:
    """The function that a recorded digest was computed with."""
    return _sampled if len(digest) == _OLDER else _digest


def _digest(path: Path) -> str:
    digest = xxh3_128()
    for file in _files(path):
        status = file.stat()
        content = _content(file, status.st_size, status.st_mtime_ns)
        digest.update(f"{file.relative_to(path).as_posix()}\n{content}\n".encode())
    return digest.hexdigest()


@cache  # a sweep asks for the same model once per run
def _content(file: Path, size: int, changed: int) -> str:
    """Digest of a file that has this size and time of its last change."""
    digest = xxh3_128()
    with file.open("rb") as content:
        while piece := content.read(_END):
            digest.update(piece)
    return digest.hexdigest()


def _sampled(path: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(path):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\n{size}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(_END))
            content.seek(max(size - _END, content.tell()))
            digest.update(content.read(_END))
    return digest.hexdigest()[:_OLDER]


def _files(path: Path) -> list[Path]:
    return [file for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
