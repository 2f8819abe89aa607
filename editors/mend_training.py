"""Training of MEND's hypernetwork."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings."""

    steps: int = 100_000
