"""Rigid transforms and rotations of B frames, each component an array of its own.

Written so, a chain of them is one short kernel on a GPU: of arrays that are put together and cut
again XLA computes every element anew for each of its uses (0.26 ms for what takes some us). There
are no sums along an axis, so all keeps its precision there (products of matrices are rounded to
fewer bits), and the identity changes no bit of its operand. Conventions: OpenCV axes; quaternions
(w, x, y, z). Before: `types`; after: `skinning`, `limits`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Frames = Float[Array, " B"]
"""A number of every frame."""
Vector = tuple[Frames, Frames, Frames]
Turn = tuple[Vector, Vector, Vector]
"""A rotation matrix, row by row."""
Quaternion = tuple[Frames, Frames, Frames, Frames]


class Rigid(NamedTuple):
    """The transforms x -> turn x + shift of B frames."""

    turn: Turn
    shift: Vector


def parts(transforms: Float[Array, "B 4 4"]) -> Rigid:
    """Take matrices apart."""
    row = lambda i: tuple(transforms[:, i, k] for k in range(3))
    return Rigid((row(0), row(1), row(2)), tuple(transforms[:, i, 3] for i in range(3)))


def whole(rigid: Rigid) -> Float[Array, "B 4 4"]:
    """Put matrices together."""
    nothing, one = jnp.zeros_like(rigid.shift[0]), jnp.ones_like(rigid.shift[0])
    rows = [(*turn, shift) for turn, shift in zip(rigid.turn, rigid.shift, strict=True)]
    rows.append((nothing, nothing, nothing, one))
    return jnp.stack([jnp.stack(row, axis=1) for row in rows], axis=1)


def identities(like: Frames) -> Rigid:
    """Return transforms of as many frames that change nothing."""
    o, i = jnp.zeros_like(like), jnp.ones_like(like)
    return Rigid(((i, o, o), (o, i, o), (o, o, i)), (o, o, o))


def turned(turn: Turn, vector: Vector) -> Vector:
    """Rotate a vector."""
    return tuple(sum(a * x for a, x in zip(row, vector, strict=True)) for row in turn)


def transposed(turn: Turn) -> Turn:
    """Return the opposite rotation."""
    return tuple(zip(*turn, strict=True))


def turn_product(a: Turn, b: Turn) -> Turn:
    """Return the rotation that is `b` and then `a`."""
    return transposed(tuple(turned(a, column) for column in transposed(b)))


def product(a: Rigid, b: Rigid) -> Rigid:
    """Return the transform that is `b` and then `a`."""
    shift = tuple(x + t for x, t in zip(turned(a.turn, b.shift), a.shift, strict=True))
    return Rigid(turn_product(a.turn, b.turn), shift)


def inverse(a: Rigid) -> Rigid:
    """Return the transform that undoes `a`."""
    turn = transposed(a.turn)
    return Rigid(turn, tuple(-x for x in turned(turn, a.shift)))


def rotations_of(quats: Quaternion) -> Turn:
    """Return the rotations of quaternions of any length but zero."""
    w, x, y, z = quats
    two = 2.0 / (w * w + x * x + y * y + z * z)
    return (
        (1 - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        (two * (x * y + w * z), 1 - two * (x * x + z * z), two * (y * z - w * x)),
        (two * (x * z - w * y), two * (y * z + w * x), 1 - two * (x * x + y * y)),
    )


def quats_of(turn: Turn) -> Quaternion:
    """Return the unit quaternions, w >= 0, of rotations by any angle.

    Every row of the outer product 4 q q^T is linear in the matrix; the one with the largest
    diagonal entry, which is 1 or more, is the quaternion up to its length.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
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
    return tuple(scale * value for value in best)
