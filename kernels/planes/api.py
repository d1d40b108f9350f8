"""`sample_planes`: bilinear reads of multi-resolution planes, dense or hashed.

A point (x, y) of plane p lies in cell (i, j) of a level of R cells along an axis, with i =
floor(R x), j = floor(R y). With wx = R x - i, wy = R y - j it reads, from entries T of the level,

    (1 - wy) ((1 - wx) T[i, j] + wx T[i + 1, j]) + wy ((1 - wx) T[i, j + 1] + wx T[i + 1, j + 1]).

Two implementations: `xla`, and on an NVIDIA GPU `triton`, which gives the same values and sums the
gradient of the tables in fixed point, so that it repeats bit for bit.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import dispatch
from kernels.checks import require, typechecked
from kernels.planes.types import Levels
from kernels.planes.xla.planes import sample_planes_xla

MAX_NUMBERS = 2**31  # the kernels' indices have 32 bits


@partial(jax.jit, static_argnames=("levels", "implementation"))
@typechecked
def sample_planes(
    tables: Float[Array, "P entries F"],
    points: Float[Array, "2 P N"],
    levels: Levels,
    *,
    implementation: str | None = None,
) -> Float[Array, "P L N F"]:
    """Read the features of N points on each of P planes, level by level.

    Already jitted; differentiable in tables and points. A point that is not finite harms no other,
    but its gradient is not finite either.

    Args:
      tables: Entries of every plane, all levels behind one another (`Levels.layout`).
      points: Coordinates along columns (first) and rows (second) of each plane, in [0, 1].
      levels: The grids.
      implementation: "xla": plain JAX; on a GPU the gradient of the tables comes from float atomics
        and differs from run to run in its last bits. "triton": that gradient by integer atomics,
        the same bits every time, NaN in every entry if any cotangent is not finite or any point
        not in [0, 1]; float32 alone, no `jvp`. None picks "triton" on an NVIDIA GPU where it can do
        the work, else "xla".

    Returns:
      Features.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    _check(tables, points, levels)
    if dispatch.uses_triton("sample_planes", implementation, _why_not(tables, points, levels)):
        from kernels.planes.triton.planes import sample_planes_triton as run
    else:
        run = sample_planes_xla
    return run(tables, points, levels)


def _check(tables: Array, points: Array, levels: Levels) -> None:
    """Check what shape annotations do not."""
    entries = levels.layout().entries
    require(
        tables.shape[1] == entries,
        f"tables: expected {entries} entries a plane for {levels}, got {tables.shape[1]}; "
        "Levels.layout says how many it takes",
    )
    require(points.shape[2] > 0, "points: expected at least one, got none; do not call it for none")


def _why_not(tables: Array, points: Array, levels: Levels) -> str | None:
    """Say in one line why the kernels do not take these arrays; None if they do."""
    if (tables.dtype, points.dtype) != (jnp.float32, jnp.float32):
        return f"it takes float32, got {tables.dtype} and {points.dtype}"
    n_planes, _, n_features = tables.shape
    longest = max(
        tables.size, points.size, n_planes * len(levels.resolutions) * points.shape[2] * n_features
    )
    if longest >= MAX_NUMBERS:
        return f"it takes arrays of fewer than {MAX_NUMBERS} numbers, got {longest}"
    return None
