"""Rigid transforms and rotations of B frames, written out by component.

Without sums along an axis all of it becomes one kernel on a GPU, keeps its precision there
(products of matrices are rounded to fewer bits), and the identity changes no bit of its operand.
Conventions: OpenCV axes; quaternions (w, x, y, z). Before: `types`; after: `skinning`, `limits`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.checks import typechecked


@typechecked
def product(a: Float[Array, "B n n"], b: Float[Array, "B n n"]) -> Float[Array, "B n n"]:
    """Return a b: of transforms, `b` is applied first."""
    return sum(a[:, :, k, None] * b[:, None, k, :] for k in range(a.shape[1]))


@typechecked
def inverse(transforms: Float[Array, "B 4 4"]) -> Float[Array, "B 4 4"]:
    """Invert rigid transforms: x -> R^T (x - t)."""
    turned = transforms[:, :3, :3].transpose(0, 2, 1)
    center = -sum(turned[:, :, k] * transforms[:, k, None, 3] for k in range(3))
    return assembled(turned, center)


@typechecked
def assembled(
    rotations: Float[Array, "B 3 3"], translations: Float[Array, "B 3"]
) -> Float[Array, "B 4 4"]:
    """Return the transforms x -> R x + t."""
    top = jnp.concatenate([rotations, translations[:, :, None]], axis=2)
    last = jnp.broadcast_to(jnp.eye(4, dtype=top.dtype)[None, 3:], (len(top), 1, 4))
    return jnp.concatenate([top, last], axis=1)


@typechecked
def identities(count: int) -> Float[Array, "{count} 4 4"]:
    """Return `count` transforms that change nothing."""
    return jnp.broadcast_to(jnp.eye(4)[None], (count, 4, 4))


@typechecked
def rotations_of(quats: Float[Array, "B 4"]) -> Float[Array, "B 3 3"]:
    """Return the rotations of quaternions of any length but zero."""
    w, x, y, z = (quats[:, k] for k in range(4))
    two = 2.0 / (w * w + x * x + y * y + z * z)
    rows = (
        (1 - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        (two * (x * y + w * z), 1 - two * (x * x + z * z), two * (y * z - w * x)),
        (two * (x * z - w * y), two * (y * z + w * x), 1 - two * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=1) for row in rows], axis=1)


@typechecked
def quats_of(rotations: Float[Array, "B 3 3"]) -> Float[Array, "B 4"]:
    """Return the unit quaternions, w >= 0, of rotations by any angle.

    Every row of the outer product 4 q q^T is linear in the matrix; the one with the largest
    diagonal entry, which is 1 or more, is the quaternion up to its length.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (
        [rotations[:, i, j] for j in range(3)] for i in range(3)
    )
    rows = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
    )
    best, most = rows[0], rows[0][0]
    for k in range(1, 4):
        better = rows[k][k] > most
        most = jnp.where(better, rows[k][k], most)
        best = [jnp.where(better, new, old) for new, old in zip(rows[k], best, strict=True)]
    scale = jnp.where(best[0] < 0, -0.5, 0.5) / jnp.sqrt(most)
    return jnp.stack([scale * value for value in best], axis=1)
