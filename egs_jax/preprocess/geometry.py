"""Rotations and rigid transforms as pure functions.

Conventions: OpenCV axes (+x right, +y down, +z forward); quaternions (w, x, y, z); rotation
vectors are axis times angle in radians. Every function works on any leading axes and has finite
gradients everywhere, the origin included.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.checks import typechecked

_TINY = 1e-12


@typechecked
def safe_normalize(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Scale the last axis to unit length; vectors shorter than 1e-6 come back as zeros."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    valid = squared > _TINY
    return jnp.where(valid, x / jnp.sqrt(jnp.where(valid, squared, 1.0)), 0.0)


@typechecked
def rotvec_to_quat(rotvec: Float[Array, "... 3"]) -> Float[Array, "... 4"]:
    """Return the unit quaternion (w, x, y, z) of a rotation vector [radians]."""
    squared = jnp.sum(rotvec * rotvec, axis=-1, keepdims=True)
    small = squared < 1e-8
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    # sin(a/2)/a and cos(a/2) by their series near zero, where the quotient and its gradient break.
    factor = jnp.where(small, 0.5 - squared / 48.0, jnp.sin(0.5 * angle) / angle)
    real = jnp.where(small, 1.0 - squared / 8.0, jnp.cos(0.5 * angle))
    return jnp.concatenate([real, factor * rotvec], axis=-1)


@typechecked
def quat_to_rotvec(quat: Float[Array, "... 4"]) -> Float[Array, "... 3"]:
    """Return the rotation vector [radians], angle in [0, pi], of any nonzero quaternion."""
    quat = safe_normalize(quat)
    quat = jnp.where(quat[..., :1] < 0, -quat, quat)
    real, imaginary = quat[..., :1], quat[..., 1:]
    squared = jnp.sum(imaginary * imaginary, axis=-1, keepdims=True)
    small = squared < 1e-8
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    factor = jnp.where(small, 2.0 + squared / 3.0, 2.0 * jnp.arctan2(sine, real) / sine)
    return factor * imaginary


@typechecked
def quat_to_matrix(quat: Float[Array, "... 4"]) -> Float[Array, "... 3 3"]:
    """Return the rotation matrix of a nonzero quaternion (w, x, y, z); `-q` gives the same."""
    quat = safe_normalize(quat)
    w, x, y, z = quat[..., 0], quat[..., 1], quat[..., 2], quat[..., 3]
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


@typechecked
def matrix_to_quat(rotation: Float[Array, "... 3 3"]) -> Float[Array, "... 4"]:
    """Return the unit quaternion (w >= 0) of a rotation matrix, accurate for every angle.

    The outer product `4 q q^T` is linear in the matrix; its row with the largest diagonal element
    is the quaternion up to a well-conditioned scale.
    """
    r = rotation
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    wx, wy, wz = (
        r[..., 2, 1] - r[..., 1, 2],
        r[..., 0, 2] - r[..., 2, 0],
        r[..., 1, 0] - r[..., 0, 1],
    )
    xy, xz, yz = (
        r[..., 0, 1] + r[..., 1, 0],
        r[..., 0, 2] + r[..., 2, 0],
        r[..., 1, 2] + r[..., 2, 1],
    )
    rows = (
        (1 + xx + yy + zz, wx, wy, wz),
        (wx, 1 + xx - yy - zz, xy, xz),
        (wy, xy, 1 - xx + yy - zz, yz),
        (wz, xz, yz, 1 - xx - yy + zz),
    )
    outer = jnp.stack([jnp.stack(row, -1) for row in rows], -2)  # [..., 4, 4]
    best = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    quat = jnp.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quat = safe_normalize(quat)
    return jnp.where(quat[..., :1] < 0, -quat, quat)


@typechecked
def rotvec_to_matrix(rotvec: Float[Array, "... 3"]) -> Float[Array, "... 3 3"]:
    """Return the rotation matrix of a rotation vector [radians] (exponential map of SO(3))."""
    return quat_to_matrix(rotvec_to_quat(rotvec))


@typechecked
def matrix_to_rotvec(rotation: Float[Array, "... 3 3"]) -> Float[Array, "... 3"]:
    """Return the rotation vector [radians], angle in [0, pi], of a matrix (SO(3) logarithm)."""
    return quat_to_rotvec(matrix_to_quat(rotation))


@typechecked
def rigid_transform(
    rotation: Float[Array, "... 3 3"], translation: Float[Array, "... 3"]
) -> Float[Array, "... 4 4"]:
    """Assemble the [4, 4] matrix of `x -> rotation @ x + translation`."""
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    last = jnp.broadcast_to(jnp.array([[0.0, 0.0, 0.0, 1.0]], top.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, last], axis=-2)
