"""Solvers of the head tracker: reprojection residuals, shape and focal length, and chains of poses.

A pose is six numbers: rotation vector [radians] and translation [world units] of the world-to-
camera transform (heads face the camera, so the vector stays far from its singularity at pi).
Landmarks here are relative to the principal point. Residuals are divided by the landmark noise,
and large ones lose their pull by the Geman-McClure weight, which is refreshed at every Gauss-
Newton step.

Jitted functions take `CHUNK` frames, so that each compiles once for clips of any length. Letters:
T frames, L landmarks, S = 3 L + 1 shared unknowns (mean shape, then log focal length).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Array, Float, Int

from egs_jax.preprocess import geometry
from kernels.checks import typechecked

CHUNK = 128
_ROBUST = 3.0  # residuals beyond so many noise deviations lose their pull
# Spread of a head's change of velocity per frame [rad, world units]: far above what filmed heads
# do, so that the prior rules only where there is no measurement.
_ACCELERATION_STD = np.array([0.02] * 3 + [0.05] * 3)
_VELOCITY_STD = 100.0 * _ACCELERATION_STD


class Scene(NamedTuple):
    """The shared unknowns: mean shape [L, 3] (world) and log of the focal length [px]."""

    shape: Array
    log_focal: Array


class Observations(NamedTuple):
    """Landmarks [T, L, 2] (px from the principal point), their trust [T, L], and the noise (px)."""

    points2d: Array
    weights: Array
    noise: Array


class Edges(NamedTuple):
    """Measurements of poses: `pose[stop] - pose[start] = delta`, known to `information`."""

    start: Int[np.ndarray, " E"]
    stop: Int[np.ndarray, " E"]
    delta: Float[np.ndarray, "E 6"]
    information: Float[np.ndarray, "E 6 6"]


@typechecked
def project(
    poses: Float[Array, "T 6"], scene: Scene
) -> tuple[Float[Array, "T L 2"], Float[Array, "T L 3"], Float[Array, "T 3 3"]]:
    """Return the projected shape [px from the principal point], camera points and rotations."""
    rotation = geometry.rotvec_to_matrix(poses[:, :3])
    camera = jnp.einsum("tij,lj->tli", rotation, scene.shape) + poses[:, None, 3:]
    return jnp.exp(scene.log_focal) * camera[..., :2] / camera[..., 2:], camera, rotation


@typechecked
def project_with_jacobian(
    poses: Float[Array, "T 6"], scene: Scene
) -> tuple[Float[Array, "T L 2"], Float[Array, "T L 2 6"], Float[Array, "T L 2 3"]]:
    """Return projections [px] and their derivatives by the pose and by the world point."""
    projected, camera, rotation = project(poses, scene)
    inverse_depth = 1.0 / camera[..., 2]
    scale, zero = jnp.exp(scene.log_focal) * inverse_depth, jnp.zeros_like(inverse_depth)
    row_x = jnp.stack([scale, zero, -projected[..., 0] * inverse_depth], -1)
    row_y = jnp.stack([zero, scale, -projected[..., 1] * inverse_depth], -1)
    d_camera = jnp.stack([row_x, row_y], -2)  # [T, L, 2, 3]
    d_matrix = jax.vmap(jax.jacfwd(geometry.rotvec_to_matrix))(poses[:, :3])  # [T, 3, 3, 3]
    d_rotated = jnp.einsum("tijk,lj->tlik", d_matrix, scene.shape)
    d_rotvec = jnp.einsum("tlai,tlik->tlak", d_camera, d_rotated)
    d_point = jnp.einsum("tlai,tij->tlaj", d_camera, rotation)
    return projected, jnp.concatenate([d_rotvec, d_camera], -1), d_point


def _robust(residual: Array, seen: Observations) -> tuple[Array, Array]:
    """Return Geman-McClure costs [T] and reweighting [T, L] of residuals in pixels."""
    squared = jnp.sum(residual * residual, axis=-1) / seen.noise**2
    soft = 1.0 + squared / _ROBUST**2
    return jnp.sum(seen.weights * squared / soft, -1), seen.weights / (soft * soft * seen.noise**2)


def _pose_normals(poses: Array, scene: Scene, seen: Observations) -> tuple[Array, Array, Array]:
    """Return the normal matrix [T, 6, 6], gradient [T, 6] and cost [T] of every pose."""
    projected, d_pose, _ = project_with_jacobian(poses, scene)
    residual = projected - seen.points2d
    cost, trust = _robust(residual, seen)
    weighted = d_pose * trust[..., None, None]
    normal = jnp.einsum("tlai,tlaj->tij", weighted, d_pose)
    return normal, jnp.einsum("tlai,tla->ti", weighted, residual), cost


@jax.jit
def _descend(poses: Array, scene: Scene, seen: Observations, steps: Array) -> tuple[Array, ...]:
    """Take damped Gauss-Newton steps of every pose on its own; add its normal equations."""

    def step(_: Array, poses: Array) -> Array:
        normal, gradient, _ = _pose_normals(poses, scene, seen)
        diagonal = jnp.diagonal(normal, axis1=1, axis2=2)[:, None]
        damped = normal + jnp.eye(6)[None] * (1e-4 * diagonal + 1e-3)
        return poses - jnp.linalg.solve(damped, gradient[..., None])[..., 0]

    poses = jax.lax.fori_loop(0, steps, step, poses)
    return poses, *_pose_normals(poses, scene, seen)


@jax.jit
def _shape_normals(poses: Array, scene: Scene, seen: Observations) -> tuple[Array, Array]:
    """Return normal matrices [L, 3, 3] and gradients [L, 3] of the points, poses held."""
    projected, _, d_point = project_with_jacobian(poses, scene)
    residual = projected - seen.points2d
    weighted = d_point * _robust(residual, seen)[1][..., None, None]
    normal = jnp.einsum("tlai,tlaj->lij", weighted, d_point)
    return normal, jnp.einsum("tlai,tla->li", weighted, residual)


@jax.jit
def _shared_normals(poses: Array, scene: Scene, seen: Observations) -> tuple[Array, Array, Array]:
    """Return normal matrix [S, S], gradient [S] and cost of shape and focal, poses eliminated.

    With normal blocks A (poses), C (shared) and B between them, the Schur complement is
    `C - B^T A^-1 B` and its gradient `c - B^T A^-1 a`.
    """
    frames, points, _ = seen.points2d.shape
    projected, d_pose, d_point = project_with_jacobian(poses, scene)
    residual = projected - seen.points2d
    cost, trust = _robust(residual, seen)
    by_pose, by_point = d_pose * trust[..., None, None], d_point * trust[..., None, None]
    by_focal = projected * trust[..., None]  # d projected / d log f = projected
    normal = jnp.einsum("tlai,tlaj->tij", by_pose, d_pose) + 1e-3 * jnp.eye(6)[None]
    cross = jnp.einsum("tlai,tlaj->tilj", by_pose, d_point).reshape(frames, 6, 3 * points)
    border = jnp.einsum("tlai,ctla->tic", by_pose, jnp.stack([projected, residual]))
    half = jax.vmap(partial(jax.scipy.linalg.solve_triangular, lower=True))(
        jnp.linalg.cholesky(normal), jnp.concatenate([cross, border], -1)
    ).reshape(frames * 6, 3 * points + 2)
    schur = half.T @ half

    index = jnp.arange(3 * points).reshape(points, 3)
    blocks = jnp.einsum("tlai,tlaj->lij", by_point, d_point)
    side = jnp.einsum("tlai,tla->li", by_point, projected).reshape(-1)
    full = jnp.zeros((3 * points + 1,) * 2).at[index[:, :, None], index[:, None, :]].set(blocks)
    full = (
        full.at[-1, :-1]
        .set(side)
        .at[:-1, -1]
        .set(side)
        .at[-1, -1]
        .set(jnp.sum(by_focal * projected))
    )
    gradient = jnp.append(
        jnp.einsum("tlai,tla->li", by_point, residual).reshape(-1), jnp.sum(by_focal * residual)
    )
    return full - schur[:-1, :-1], gradient - schur[:-1, -1], jnp.sum(cost)


def _chunks(poses: np.ndarray, seen: Observations) -> Iterator[tuple[slice, Array, Observations]]:
    """Cut the clip into chunks of `CHUNK` frames; the last is filled with frames of no weight."""
    for start in range(0, len(poses), CHUNK):
        part = slice(start, min(start + CHUNK, len(poses)))
        pad = start + CHUNK - part.stop
        fill = lambda x, pad=pad, part=part: np.pad(
            np.asarray(x[part], np.float32), [(0, pad)] + [(0, 0)] * (x.ndim - 1)
        )
        chunk_poses = fill(poses)
        chunk_poses[CHUNK - pad :] = poses[part.stop - 1]  # a pose in front of the camera
        yield part, chunk_poses, Observations(fill(seen.points2d), fill(seen.weights), seen.noise)


def solve_poses(
    poses: Float[np.ndarray, "T 6"], scene: Scene, seen: Observations, *, steps: int
) -> tuple[
    Float[np.ndarray, "T 6"],
    Float[np.ndarray, "T 6 6"],
    Float[np.ndarray, "T 6"],
    Float[np.ndarray, " T"],
]:
    """Fit every pose on its own; frames without landmarks keep theirs.

    Args:
      poses: Starting poses.
      scene: Shape and focal length, held.
      seen: Landmarks.
      steps: Gauss-Newton steps; 0 only evaluates.

    Returns:
      Poses and, at them in units of the landmark noise, normal matrices, gradients and robust
      costs.
    """
    chunks = [
        [
            np.asarray(x, np.float64)[: part.stop - part.start]
            for x in _descend(chunk, scene, at, steps)
        ]
        for part, chunk, at in _chunks(poses, seen)
    ]
    return tuple(np.concatenate(column) for column in zip(*chunks, strict=True))


def solve_shape(
    poses: Float[np.ndarray, "T 6"],
    scene: Scene,
    seen: Observations,
    prior: Scene,
    std: float,
    frame_weight: float,
) -> Scene:
    """Take one Gauss-Newton step of every point of the mean shape, poses and focal held.

    Args:
      poses: Poses, held.
      scene: Current shape and focal length.
      seen: Landmarks.
      prior: Mean of the shape prior.
      std: Its standard deviation [world units].
      frame_weight: Weight of a frame's data against the prior.
    """
    normal, gradient = 0.0, 0.0
    for _, chunk, at in _chunks(poses, seen):
        sums = _shape_normals(chunk, scene, at)
        normal, gradient = (
            normal + np.asarray(sums[0], float),
            gradient + np.asarray(sums[1], float),
        )
    normal = frame_weight * normal + np.eye(3) / std**2
    right = frame_weight * gradient + (np.asarray(scene.shape) - np.asarray(prior.shape)) / std**2
    change = np.linalg.solve(normal, right[..., None])[..., 0]
    return scene._replace(shape=jnp.asarray(np.asarray(scene.shape) - change, jnp.float32))


def solve_scene(
    poses: Float[np.ndarray, "T 6"],
    prior: Scene,
    seen: Observations,
    prior_std: Float[np.ndarray, " S"],
    frame_weight: float,
    *,
    steps: int,
) -> Scene:
    """Solve shape and focal length by Levenberg-Marquardt, the poses following at every step.

    Args:
      poses: Starting poses of at most `CHUNK` frames.
      prior: Start and mean of the prior.
      seen: Landmarks of these frames.
      prior_std: Prior standard deviations of shape, then log focal.
      frame_weight: Weight of a frame's data against the prior (landmark errors repeat).
      steps: Most Levenberg-Marquardt steps; fewer where the cost settles.
    """
    pack = lambda scene: np.append(
        np.asarray(scene.shape, np.float64).ravel(), float(scene.log_focal)
    )
    unpack = lambda x: Scene(jnp.asarray(x[:-1].reshape(-1, 3), jnp.float32), jnp.float32(x[-1]))
    _, poses, seen = next(_chunks(poses, seen))
    mean, current, damping, best = pack(prior), pack(prior), 1e-3, None
    poses = _descend(poses, prior, seen, 8)[0]
    for _ in range(steps):
        normal, gradient, cost = (
            np.asarray(x, np.float64) for x in _shared_normals(poses, unpack(current), seen)
        )
        total = frame_weight * cost + np.sum(((current - mean) / prior_std) ** 2)
        if best is not None and total >= best[0]:  # worse: back, with a shorter step
            settled = damping > 1e2
            _, current, poses, normal, gradient = best
            damping *= 10.0
        else:
            settled = best is not None and best[0] - total < 1e-4 * total
            best, damping = (total, current, poses, normal, gradient), damping * 0.2
        if settled:
            break
        matrix = frame_weight * normal
        matrix[np.diag_indices_from(matrix)] *= 1.0 + damping
        matrix[np.diag_indices_from(matrix)] += 1.0 / prior_std**2
        right = frame_weight * gradient + (current - mean) / prior_std**2
        current = current - scipy.linalg.solve(matrix, right, assume_a="pos")
        poses = _descend(poses, unpack(current), seen, 2)[0]
    return unpack(best[1])


def solve_chains(
    information: Float[np.ndarray, "T 6 6"],
    weighted_mean: Float[np.ndarray, "T 6"],
    start: Float[np.ndarray, "T 6"],
    runs: Sequence[tuple[int, int]],
    edges: Edges | None = None,
) -> Float[np.ndarray, "T 6"]:
    """Do the same as `solve_chain` for every run [start, stop) of frames on its own.

    A run without any information keeps its poses of `start`; no edge may lead out of a run.
    """
    poses = np.array(start, np.float64)
    for first, stop in runs:
        part = slice(first, stop)
        if not information[part].any():
            continue
        inner = None
        if edges is not None:
            own = (edges.start >= first) & (edges.stop < stop)
            inner = Edges(
                edges.start[own] - first, edges.stop[own] - first, edges.delta[own],
                edges.information[own],
            )  # fmt: skip
        poses[part] = solve_chain(information[part], weighted_mean[part], inner)
    return poses


def solve_chain(
    information: Float[np.ndarray, "T 6 6"],
    weighted_mean: Float[np.ndarray, "T 6"],
    edges: Edges | None = None,
) -> Float[np.ndarray, "T 6"]:
    """Find the most likely poses given absolute and relative measurements and a light prior.

    Minimizes, exactly (one sparse factorization in float64),
    `sum_t |p_t - m_t|^2_information + sum_e |p_stop - p_start - delta|^2_information + prior`,
    where the prior holds velocity constant. Frames with zero information are interpolated by it.

    Args:
      information: Normal matrix of every pose.
      weighted_mean: Normal matrix times measured pose m.
      edges: Relative measurements.
    """
    count = len(information)
    right = weighted_mean.astype(np.float64).copy()
    entries = [
        (np.arange(count), np.arange(count), information)
    ]  # (block row, block column, blocks)
    for stencil, std in (((1.0, -2.0, 1.0), _ACCELERATION_STD), ((-1.0, 1.0), _VELOCITY_STD)):
        first = np.arange(max(0, count - len(stencil) + 1))
        for i, a in enumerate(stencil):
            for j, b in enumerate(stencil):
                block = np.broadcast_to(a * b * np.diag(std**-2.0), (len(first), 6, 6))
                entries.append((first + i, first + j, block))
    if edges is not None:
        pull = np.einsum("eij,ej->ei", edges.information, edges.delta)
        ends = ((edges.start, -1.0), (edges.stop, 1.0))
        for a, sign_a in ends:
            np.add.at(right, a, sign_a * pull)
            entries.extend((a, b, sign_a * sign_b * edges.information) for b, sign_b in ends)
    rows, columns, blocks = (np.concatenate(part) for part in zip(*entries, strict=True))
    axis = np.arange(6)
    rows = np.broadcast_to(rows[:, None, None] * 6 + axis[:, None], blocks.shape)
    columns = np.broadcast_to(columns[:, None, None] * 6 + axis, blocks.shape)
    matrix = scipy.sparse.csc_matrix(
        (blocks.ravel(), (rows.ravel(), columns.ravel())), shape=(6 * count, 6 * count)
    )
    factor = scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
    )
    return factor.solve(right.ravel()).reshape(count, 6)
