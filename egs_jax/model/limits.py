"""How far a head may turn before its colors and its pose token are those of the nearest seen ones.

Colors by viewing direction and the network's answer to a pose are learned from the training frames
alone; beyond those they are extrapolations. Both are therefore limited, softly: unchanged where
training was, so that training needs no limits and an avatar draws its frames as the loss saw them.

Where the camera would look along a direction that never was seen, the world is turned together
with the camera (`Limits.turns`): every pixel stays where it is, but the directions, which count in
the world, are seen ones. The tokens are told a limited pose (`Limits.poses`), the camera is not.

Place in the pipeline: between a drive and `forward`'s functions, when an avatar draws a person.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from scipy.spatial.transform import Rotation

from egs_jax.model import rigid
from egs_jax.model.rigid import Quaternion, Rigid, Vector
from kernels.checks import typechecked
from kernels.codes import REACH, soft

LEAST = np.pi / 180
"""Least half range: one degree, and as far as that moves what is one world unit away."""
SLACK = 1.001
"""Seen ranges are wider by this, that rounding leaves every training frame inside."""


class Limits(flax.struct.PyTreeNode):
    """Head poses that training saw.

    The camera's direction in head space is told as yaw and pitch [radians], 0 in front of the face;
    the seen ones lie in an ellipse. A pose is told as six numbers: twice the vector part of the
    quaternion of its rotation since the mean one (to second order the rotation vector) and its
    translation; the seen ones lie in a box.
    """

    values: Float[Array, " 25"]
    """Mean rotation (9, row by row), center and half sides of the box (6, 6), center and half axes
    of the ellipse (2, 2). One array: each makes a call of an avatar longer."""

    @classmethod
    @typechecked
    def of(cls, viewmats: Float[np.ndarray, "T 4 4"]) -> "Limits":
        """Measure the head poses (head space -> camera, OpenCV axes) of the training frames."""
        viewmats = viewmats.astype(np.float64)
        turns = Rotation.from_matrix(viewmats[:, :3, :3])
        mean = turns.mean()
        quats = (turns * mean.inv()).as_quat()  # x, y, z, w
        vectors = 2 * quats[:, :3] * np.where(quats[:, 3:] < 0, -1.0, 1.0)
        center, half = _range(np.concatenate([vectors, viewmats[:, :3, 3]], axis=1))
        x, y, z = _cameras(viewmats)
        # Yaws about their mean direction: there is no frame at the other side.
        ahead = np.arctan2(x.mean(), -z.mean())
        yaws = ahead + _wrapped(np.arctan2(x, -z) - ahead)
        angles = np.stack([yaws, np.arctan2(y, np.hypot(x, z))], axis=1)
        middle, axes = _range(angles)
        farthest = np.linalg.norm((angles - middle) / axes, axis=1).max()
        axes = axes * max(farthest, 1.0) * SLACK  # an ellipse reaches less far than its box
        parts = (mean.as_matrix().reshape(9), center, half * SLACK, middle, axes)
        return cls(jnp.asarray(np.concatenate(parts), jnp.float32))

    def turns(self, views: Rigid) -> Rigid:
        """Return by how much to turn the world that the camera looks along a seen direction.

        It is the smallest rotation, about the origin of head space, that takes the camera's
        direction to its limited one; where training looked it is the identity.
        """
        x, y, z = rigid.inverse(views).shift
        length = jnp.sqrt(x * x + y * y + z * z)
        seen = (x / length, y / length, z / length)
        yaw, pitch = jnp.arctan2(x, -z), jnp.arctan2(y, jnp.sqrt(x * x + z * z))
        yaw_center, pitch_center, yaw_half, pitch_half = (self.values[k] for k in range(21, 25))
        u = _wrapped(yaw - yaw_center) / yaw_half
        v = (pitch - pitch_center) / pitch_half
        radius = jnp.sqrt(u * u + v * v)
        share = soft(radius) / jnp.maximum(radius, 1)
        yaw, pitch = yaw_center + yaw_half * share * u, pitch_center + pitch_half * share * v
        flat = jnp.cos(pitch)
        wanted = (flat * jnp.sin(yaw), jnp.sin(pitch), -flat * jnp.cos(yaw))
        same = rigid.identities(radius)
        limited = Rigid(rigid.rotations_of(_quats_between(seen, wanted)), same.shift)
        return jax.tree.map(lambda one, other: jnp.where(radius <= 1, one, other), same, limited)

    def poses(self, viewmats: Float[Array, "B 4 4"]) -> Float[Array, "B 4 4"]:
        """Return the poses that the tokens may be told: where training was, the same bits."""
        views = rigid.parts(viewmats)
        mean = tuple(tuple(self.values[3 * i + k] for k in range(3)) for i in range(3))
        since = rigid.quats_of(rigid.turn_product(views.turn, rigid.transposed(mean)))
        center, half = self.values[9:15], self.values[15:21]
        numbers = [2 * value for value in since[1:]] + list(views.shift)
        limited, inside = [], jnp.ones(len(viewmats), bool)
        for k, number in enumerate(numbers):
            beyond = (number - center[k]) / half[k]
            size = jnp.abs(beyond)
            limited.append(center[k] + half[k] * jnp.sign(beyond) * soft(size))
            inside &= size <= 1
        x, y, z = (value / 2 for value in limited[:3])
        w = jnp.sqrt(jnp.maximum(1 - (x * x + y * y + z * z), 0))
        turn = rigid.turn_product(rigid.rotations_of((w, x, y, z)), mean)
        told = Rigid(turn, tuple(limited[3:]))
        return rigid.whole(
            jax.tree.map(lambda own, other: jnp.where(inside, own, other), views, told)
        )

    def looked_at(
        self, heads: Float[np.ndarray, "B 4 4"], bodies: Float[np.ndarray, "B 4 4"],
        angles: Float[np.ndarray, "B 2"],
    ) -> tuple[Float32[np.ndarray, "B 4 4"], Float32[np.ndarray, "B 4 4"]]:  # fmt: skip
        """Return poses as cameras see them that went around the head: twin of web/poses.js.

        A camera goes as far as training went and `REACH` further, or stays as far out as it was.

        Args:
          heads: Head -> camera.
          bodies: Body -> camera; they keep their place beside the head.
          angles: Yaw to the right and pitch down by which each camera goes [radians].
        """
        heads = heads.astype(np.float64)
        values = np.asarray(self.values, np.float64)
        center, axes = values[None, 21:23], values[None, 23:25]
        x, y, z = _cameras(heads)
        seen = np.stack([np.arctan2(x, -z), np.arctan2(y, np.hypot(x, z))], axis=1)
        off, wanted = seen - center, seen + angles - center  # [B, 2]
        off[:, 0], wanted[:, 0] = _wrapped(off[:, 0]), _wrapped(wanted[:, 0])
        radius, far = (np.linalg.norm(each / axes, axis=1) for each in (off, wanted))
        share = np.minimum(1, np.maximum(1 + REACH, radius) / np.maximum(far, 1e-9))
        before, after = _vectors(seen), _vectors(center + share[:, None] * wanted)
        cosines = np.maximum(1 + (before * after).sum(axis=1), 1e-4)
        quats = np.concatenate([np.cross(before, after), cosines[:, None]], axis=1)
        moved = heads.copy()
        moved[:, :3, :3] = heads[:, :3, :3] @ Rotation.from_quat(quats).inv().as_matrix()
        return np.float32(moved), np.float32(moved @ np.linalg.inv(heads) @ bodies)


def _cameras(viewmats: Float[np.ndarray, "T 4 4"]) -> Float[np.ndarray, "3 T"]:
    """Return where cameras are in head space."""
    return np.einsum("tji,tj->it", viewmats[:, :3, :3], -viewmats[:, :3, 3])


def _vectors(angles: Float[np.ndarray, "B 2"]) -> Float[np.ndarray, "B 3"]:
    """Return unit vectors of yaws and pitches, 0 in front of the face."""
    yaw, pitch = angles.T
    flat = np.cos(pitch)
    return np.stack([flat * np.sin(yaw), np.sin(pitch), -flat * np.cos(yaw)], axis=1)


def _range(numbers: Float[np.ndarray, "T K"]) -> tuple[np.ndarray, np.ndarray]:
    """Return middles and halves of the ranges of K numbers, the halves at least `LEAST`."""
    low, high = numbers.min(axis=0), numbers.max(axis=0)
    return (low + high) / 2, np.maximum((high - low) / 2, LEAST)


def _wrapped(angle: Array) -> Array:
    """Bring an angle to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _quats_between(a: Vector, b: Vector) -> Quaternion:
    """Return quaternions, of any length, of the smallest rotations of unit vectors a to b."""
    cosine = sum(x * y for x, y in zip(a, b, strict=True))
    axis = (a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1)))
    # Of opposite vectors no rotation is the smallest; the identity is one at least.
    return (jnp.maximum(1 + cosine, 1e-4), *axis)
