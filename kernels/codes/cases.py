"""Random arguments for the tests and benchmarks of `move_by_codes` and `read_codes`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.codes.types import FORM, Patterns
from kernels.deform.types import Deformed, DeformInputs


class Case(NamedTuple):
    """Arguments of `move_by_codes`, in its order."""

    cloud: DeformInputs
    form: Patterns
    shine: Patterns
    follows: Float[Array, "K k"]
    codes: Float[Array, "B K"]


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
    return Case(cloud, patterns(codes, FORM), patterns(shine, others),
                draw(codes, shine), draw(frames, codes))  # fmt: skip


class Reading(NamedTuple):
    """Arguments of `read_codes`, in its order."""

    moved: Deformed
    mean: Float[Array, "S 14"]
    weights: Float[Array, "S 14"]
    reader: Float[Array, "K L"]
    ranges: Float[Array, "2 K"]


def make_reading(n: int = 5, frames: int = 2, codes: int = 3, seed: int = 0) -> Reading:
    """Draw arguments whose codes lie in their ranges and beyond, some opacities near 0 and 1.

    Args:
      n: S, Gaussians.
      frames: Number of frames.
      codes: K.
      seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    moved = Deformed(
        means=draw(frames, n, 3),
        quats=draw(frames, n, 4),
        scales=jnp.exp(draw(frames, n, 3)),
        opacities=jax.nn.sigmoid(jnp.asarray(rng.uniform(-14, 14, (frames, n)), jnp.float32)),
        sh=draw(frames, n, 1, 3),
    )
    weights = jnp.asarray(rng.uniform(0.1, 2, (n, FORM)), jnp.float32)
    reader = (FORM * n) ** -0.5 * draw(codes, FORM * n)
    middles, halves = draw(codes), jnp.asarray(rng.uniform(1, 9, codes), jnp.float32)
    ranges = jnp.stack([middles - halves, middles + halves])
    return Reading(moved, draw(n, FORM), weights, reader, ranges)
