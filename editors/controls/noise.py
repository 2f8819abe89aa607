"""Random matrices that depend only on explicit parts of a seed."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def generator_for(*parts: object) -> torch.Generator:
    """A generator seeded by a hash of the parts, such as a seed, a number of edits and a site."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def gaussian(like: Float[Tensor, "row column"], generator: torch.Generator) -> Float[Tensor, "row column"]:
    """Standard normal entries of the shape, precision and device of `like`; drawn in float64 on the CPU."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
