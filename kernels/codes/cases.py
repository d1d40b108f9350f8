"""Random clouds, patterns and codes for the tests and benchmarks of `move_by_codes`."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.codes.types import FORM, Patterns
from kernels.deform.types import DeformInputs


class Case(NamedTuple):
    """Arguments of `move_by_codes`, in its order."""

    cloud: DeformInputs
    form: Patterns
    shine: Patterns
    codes: Float[Array, "B K"]
    shine_codes: Float[Array, "B k"]


def make_case(
    n: int = 5, frames: int = 2, codes: int = 3, shine: int = 2, harmonics: int = 4, seed: int = 0
) -> Case:
    """Draw arguments, the same on every machine.

    Args:
      n: Gaussians.
      frames: Number of frames.
      codes: K.
      shine: k.
      harmonics: H.
      seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    cloud = DeformInputs(draw(n, 3), draw(n, 3), draw(n, 4), draw(n), draw(n, harmonics, 3))

    def patterns(count: int, numbers: int) -> Patterns:
        counts = rng.integers(-127, 128, (count, numbers, n), np.int8)
        return Patterns(jnp.asarray(counts), 1e-2 * draw(count, numbers))

    others = 11 + 3 * harmonics - FORM
    return Case(cloud, patterns(codes, FORM), patterns(shine, others), draw(frames, codes),
                draw(frames, shine))  # fmt: skip
