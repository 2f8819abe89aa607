"""Folders of the code and of its configuration, in a checkout or in an installed package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
"""The package `pipeline`."""
ROOT = PACKAGE.parent
"""The folder that contains all packages: a checkout, a copy of the code, or site-packages."""
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else ROOT / "conf"
"""The configuration: inside the package of a wheel, beside it in a checkout."""
