"""Random inputs for the tests and benchmarks of every implementation of `sample_planes`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kernels.planes.types import Levels

SMALL = Levels((4, 8, 16), 64)
"""A dense level and two hashed ones."""


class Case(NamedTuple):
    """Arguments of `sample_planes`, and a cotangent of its result."""

    levels: Levels
    tables: Float[np.ndarray, "P entries F"]
    points: Float[np.ndarray, "2 P N"]
    cotangents: Float[np.ndarray, "P L N F"]


def make_case(
    count: int = 50,
    levels: Levels = SMALL,
    planes: int = 3,
    features: int = 1,
    seed: int = 0,
    exponents: tuple[float, float] = (0, 0),
) -> Case:
    """Draw inputs, the same on every machine.

    Args:
      count: Points on each plane.
      levels: The grids.
      planes: Number of planes.
      features: Features of an entry.
      seed: Of the random numbers.
      exponents: Cotangents have magnitudes from two to the first to two to the second power.
    """
    rng = np.random.default_rng(seed)
    shape = (planes, len(levels.resolutions), count, features)
    sizes = 2.0 ** rng.uniform(*exponents, size=shape) if exponents[0] < exponents[1] else 1.0
    return Case(
        levels=levels,
        tables=rng.normal(size=(planes, levels.layout().entries, features)).astype(np.float32),
        points=rng.uniform(0, 1, (2, planes, count)).astype(np.float32),
        cotangents=(rng.normal(size=shape) * sizes).astype(np.float32),
    )
