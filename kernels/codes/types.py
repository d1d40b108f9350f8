"""Patterns by which Gaussians move.

Letters: N Gaussians, B frames, K patterns (k of the shine), d numbers of a Gaussian that a pattern
moves, H harmonics a color. A Gaussian has 11 + 3 H numbers before activation: means 3, log-scales
3, quaternion 4, opacity 1, harmonics 3 H. The first 14 of them (with the constant color) are its
*form*, the rest its *shine*, which has patterns and codes of its own.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int8

FORM = 14
"""Numbers of a Gaussian's form."""
REACH = 0.25
"""Most that a limited number goes beyond the seen range, as a share of half of it."""


class Patterns(NamedTuple):
    """K ways to move N Gaussians in d of their numbers."""

    counts: Int8[Array, "K d N"]
    steps: Float[Array, "K d"]  # what a count is, before activation
