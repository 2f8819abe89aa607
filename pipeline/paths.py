"""Where the code and its configuration lie, in a checkout and in an installed package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
"""The package `pipeline`."""
ROOT = PACKAGE.parent
"""What holds all packages: a checkout, a copy of the code, or site-packages."""
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else ROOT / "conf"
"""The configuration: inside the package of a wheel, beside it in a checkout."""
