"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
CONF = ROOT / "conf"
SHARED = ROOT.parent / "shared"
"""Real data that only developers have; a test that reads it is marked `shared` and skips without it."""
