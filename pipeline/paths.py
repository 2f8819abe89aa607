"""Folders of the code and of its configuration, in a checkout or in an installed package."""

import argparse
import shutil
import sys
from pathlib import Path

from editors.text_files import local_path

PACKAGE = Path(__file__).resolve().parent
"""The package `pipeline`."""
ROOT = PACKAGE.parent
"""The folder that contains all packages: a checkout, a copy of the code, or site-packages."""
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else ROOT / "conf"
"""The configuration: inside the package of a wheel, beside it in a checkout."""


def shown_python() -> str:
    """The interpreter in use as commands to paste name it: `python` if that is it, else its path."""
    own, found = Path(sys.executable), shutil.which("python")
    if found and Path(found) == own:
        return "python"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def out_path(text: str, form: str) -> Path:
    """The path of an argument `out=PATH` of a command; `form` says what is expected after the sign."""
    key, sign, path = text.partition("=")
    if key != "out" or not sign or not path:
        raise argparse.ArgumentTypeError(f"{text!r} has to be out={form}")
    return local_path(path)
