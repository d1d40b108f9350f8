"""Make head poses follow the image itself: photometric alignment of the posed face between frames.

Landmarks of consecutive frames tremble by more than half a pixel, and poses fitted to them make a
head tremble where the video is still. Here the rigid part of the posed mean face (brows, nose,
cheeks) is aligned between consecutive frames on brightness, coarse to fine, in the six pose
numbers plus gain and offset of the light. That measures the change of pose to a few hundredths of
a pixel, with its information matrix. All poses then follow from one linear least-squares problem:
landmarks hold them absolutely, at a weight that matters over seconds only (no drift), alignments
hold them relatively, and a very light constant-velocity prior bridges gaps; nothing is smoothed.

Frames are read once, in order, and one pyramid is kept: constant memory. Letters: T frames, N
surface points.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from egs_jax.preprocess import bundle_adjustment as ba
from egs_jax.preprocess import tracking
from egs_jax.preprocess.tracking import HeadTrack
from kernels.checks import typechecked

Picture = UInt8[np.ndarray, "H Wd 3"]
_SURFACE_POINTS = 2048
_BLUR = 1.0  # px, before anything else: takes compression noise off the gradients
_COARSEST_EYE_DISTANCE = 24.0  # px between outer eye corners at the coarsest level of the pyramid
_ITERATIONS = 6  # Gauss-Newton steps per level
_ROBUST = 2.5  # brightness residuals beyond so many deviations lose their pull
_WIDEST = 10.0  # the deviation to start from, of 255
# Brightness residuals of neighboring points are alike and landmark errors last for many frames:
# both information matrices claim too much, by about these factors (standard deviations x7 and x8).
_ALIGNMENT_TRUST = 0.02
_LANDMARK_TRUST = 0.015
_LARGEST_SURPRISE = (
    0.1  # eye distances an alignment may differ from the landmarks before it is dropped
)


class Surface(NamedTuple):
    """Points on the rigid part of the mean face [N, 3] and their outward normals [N, 3]."""

    points: Array
    normals: Array


def rigid_surface(
    mean_shape: Float[np.ndarray, "478 3"],
    triangles: Int[np.ndarray, "F 3"],
    rigid: Bool[np.ndarray, "478"],
) -> Surface:
    """Spread points evenly by area over the triangles whose three corners are all `rigid`.

    Args:
      mean_shape: Mean landmarks in the world.
      triangles: Corner indices.
      rigid: Whether a landmark may be used.
    """
    corners = mean_shape[triangles[rigid[triangles].all(axis=1)]].astype(np.float64)  # [F, 3, 3]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    # Low-discrepancy sequences: even cover, and the same points in every run.
    ramp = (np.arange(_SURFACE_POINTS) + 0.5) / _SURFACE_POINTS
    triangle = np.searchsorted(np.cumsum(area) / area.sum(), ramp)
    index = np.arange(_SURFACE_POINTS)
    u, v = (index * 0.7548776662466927) % 1.0, (index * 0.5698402909980532) % 1.0
    root = np.sqrt(u)
    weights = np.stack([1 - root, root * (1 - v), root * v], axis=-1)
    points = np.einsum("nk,nki->ni", weights, corners[triangle])
    normals = (normal / area[:, None])[triangle]
    # The face looks to the camera at -z, whatever the winding of the triangles.
    normals *= np.where(normals[:, 2:].mean() > 0, -1.0, 1.0)
    return Surface(jnp.asarray(points, jnp.float32), jnp.asarray(normals, jnp.float32))


class Pyramid(NamedTuple):
    """Brightness and its two derivatives of all levels, finest first, one after the other.

    Attributes:
      texels: [sum of rows x columns, 3].
      layout: First texel, rows and columns of every level [levels, 3].
    """

    texels: Array
    layout: Array


def build_pyramid(rgb: Picture, levels: int) -> Pyramid:
    """Build the pyramid of an image; texel i of level l lies on texel i 2^l of level 0."""
    gray = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), _BLUR)
    texels, layout, count = [], [], 0
    for _ in range(levels):
        d_x = cv2.Scharr(gray, cv2.CV_32F, 1, 0, scale=1 / 32)
        d_y = cv2.Scharr(gray, cv2.CV_32F, 0, 1, scale=1 / 32)
        texels.append(np.stack([gray, d_x, d_y], axis=-1).reshape(-1, 3))
        layout.append((count, *gray.shape))
        count += gray.size
        gray = cv2.pyrDown(gray)
    return Pyramid(np.concatenate(texels), np.array(layout, np.int32))


def _sample(pyramid: Pyramid, level: Array, points2d: Array) -> tuple[Array, Array]:
    """Sample a level bilinearly at pixel positions [N, 2]; tell which of them lie inside."""
    first, rows, columns = pyramid.layout[level]
    limit = jnp.stack([columns, rows]).astype(jnp.float32) - 1.001
    raw = (points2d - 0.5) / 2.0**level  # pixel centers are at +0.5
    position = jnp.clip(raw, 0.0, limit[None])
    corner = jnp.floor(position).astype(jnp.int32)
    right, down = jnp.split(position - corner, 2, axis=-1)  # [N, 1] each
    texels, index = pyramid.texels, first + corner[:, 1] * columns + corner[:, 0]
    top = texels[index] * (1 - right) + texels[index + 1] * right
    low = texels[index + columns] * (1 - right) + texels[index + columns + 1] * right
    return top * (1 - down) + low * down, jnp.all(raw == position, axis=-1)


def _visible(pose: Array, surface: Surface) -> Array:
    """Return the cosine between normal and view [N], zero beyond 75 degrees."""
    rotation = ba.geometry.rotvec_to_matrix(pose[:3])
    camera = surface.points @ rotation.T + pose[None, 3:]
    cosine = -jnp.sum((surface.normals @ rotation.T) * camera, -1) / jnp.linalg.norm(
        camera, axis=-1
    )
    return jnp.where(cosine > 0.25, cosine, 0.0)


@jax.jit
@typechecked
def align(
    first: Pyramid,
    second: Pyramid,
    first_pose: Float[Array, "6"],
    second_pose: Float[Array, "6"],
    surface: Surface,
    log_focal: Float[Array, ""],
    center: Float[Array, "2"],
) -> tuple[Float[Array, "6"], Float[Array, "6 6"], Float[Array, ""]]:
    """Find the pose of the face in the second image that makes it look as in the first.

    Gauss-Newton on the brightness of the surface points with the mean of both images' gradients (a
    second-order step), Geman-McClure weights, gain and offset eliminated; coarse to fine.

    Args:
      first: Pyramid of the first image.
      second: Pyramid of the second image.
      first_pose: Rotation vector and translation in the first image.
      second_pose: Start value for the second.
      surface: Points on the face.
      log_focal: Natural logarithm of the focal length [pixels].
      center: Principal point [pixels].

    Returns:
      The second pose, its information matrix under independent brightness noise, and how far the
      surface moved from the start value [px, mean].
    """
    scene = ba.Scene(surface.points, log_focal)
    visible = _visible(first_pose, surface)
    first_points = ba.project(first_pose[None], scene)[0][0] + center[None]
    levels = first.layout.shape[0]

    def step(_: Array, state: tuple, level: Array, template: Array, usable: Array) -> tuple:
        pose, light, scale, _ = state
        projected, d_pose, _ = ba.project_with_jacobian(pose[None], scene)
        sample, inside = _sample(second, level, projected[0] + center[None])
        gradient = 0.5 * (sample[:, 1:] + template[:, 1:]) / 2.0**level
        by_pose = jnp.einsum("na,nai->ni", gradient, d_pose[0])
        jacobian = jnp.concatenate([by_pose, -template[:, :1], -jnp.ones_like(template[:, :1])], -1)
        residual = sample[:, 0] - (1.0 + light[0]) * template[:, 0] - light[1]
        trust = usable * inside / (1.0 + (residual / (_ROBUST * scale)) ** 2) ** 2
        # Deviation among the trusted, for the next step: falls from a wide start.
        spread = jnp.sum(trust * residual**2) / (jnp.sum(trust) + 1e-6)
        normal = jnp.einsum("n,ni,nj->ij", trust, jacobian, jacobian)
        normal = normal + jnp.diag(1e-4 * jnp.diagonal(normal) + 1e-3)
        change = jnp.linalg.solve(normal, jacobian.T @ (trust * residual))
        coupling = normal[:6, 6:] @ jnp.linalg.solve(normal[6:, 6:], normal[6:, :6])
        information = (normal[:6, :6] - coupling) / scale**2
        return pose - change[:6], light - change[6:], jnp.sqrt(spread) + 0.5, information

    def at_level(i: Array, state: tuple) -> tuple:
        level = levels - 1 - i
        template, inside = _sample(first, level, first_points)
        inner = partial(step, level=level, template=template, usable=visible * inside)
        return jax.lax.fori_loop(0, _ITERATIONS, inner, state)

    state = (second_pose, jnp.zeros(2), jnp.float32(_WIDEST), jnp.eye(6))
    pose, _, _, information = jax.lax.fori_loop(0, levels, at_level, state)
    moved = ba.project(pose[None], scene)[0] - ba.project(second_pose[None], scene)[0]
    return pose, 0.5 * (information + information.T), jnp.mean(jnp.linalg.norm(moved, axis=-1))


def refine_poses(
    frames: Sequence[Picture] | UInt8[np.ndarray, "T H Wd 3"] | Callable[[int], Picture],
    track: HeadTrack,
    landmarks: Float[np.ndarray, "T 478 3"],
    valid: Bool[np.ndarray, " T"],
    *,
    canonical: Float[np.ndarray, "468 3"],
    triangles: Int[np.ndarray, "F 3"],
    runs: Sequence[tuple[int, int]] | None = None,
) -> HeadTrack:
    """Refine every pose against the images so that the head moves exactly when the image does.

    Args:
      frames: RGB pictures (may be memory-mapped), or a function of the frame number.
      track: Result of `tracking.track_head`.
      landmarks: Landmarks in pixels.
      valid: Whether a face was found.
      canonical: Canonical face mesh in centimeters.
      triangles: Its triangles.
      runs: Frames [start, stop) that follow one another in time; None: all do.

    Returns:
      The track with new `viewmats`.
    """
    read = frames if callable(frames) else lambda i: frames[i]
    weights = tracking.landmark_weights(canonical)
    valid = np.asarray(valid, bool) & np.isfinite(landmarks).all(axis=(1, 2))
    height, width = read(0).shape[:2]
    seen = tracking.observe(landmarks, valid, width, height, weights)
    log_focal = jnp.log(jnp.float32(track.K[0, 0]))
    scene = ba.Scene(jnp.asarray(track.mean_shape), log_focal)
    poses = tracking.poses_of(track.viewmats)
    _, normal, gradient, _ = ba.solve_poses(poses, scene, seen, steps=0)
    runs = [(0, len(valid))] if runs is None else runs
    edges = _align_frames(read, poses, valid, runs, track, triangles, weights >= 0.3, scene,
                          float(seen.noise))  # fmt: skip
    mean = np.einsum("tij,tj->ti", normal, poses) - gradient
    normal, mean = _LANDMARK_TRUST * normal, _LANDMARK_TRUST * mean
    refined = ba.solve_chains(normal, mean, poses, runs, edges)
    return replace(track, viewmats=tracking.viewmats_of(refined))


def _align_frames(
    read: Callable[[int], Picture], poses: Float[np.ndarray, "T 6"], valid: Bool[np.ndarray, " T"],
    runs: Sequence[tuple[int, int]], track: HeadTrack, triangles: Int[np.ndarray, "F 3"],
    rigid: Bool[np.ndarray, "478"], scene: ba.Scene, noise: float,
) -> ba.Edges:  # fmt: skip
    """Align every frame to the one before it; pairs without a face, or that fail, are left out."""
    surface = rigid_surface(track.mean_shape, triangles, rigid)
    center = jnp.asarray(track.K[:2, 2])
    eye_distance = noise / tracking.NOISE_PER_EYE_DISTANCE
    levels = 1 + max(0, round(np.log2(eye_distance / _COARSEST_EYE_DISTANCE)))
    start32 = poses.astype(np.float32)
    start, delta, information, before = [], [], [], None
    firsts = {first for first, _ in runs}
    for i in range(len(valid)):
        now = build_pyramid(np.asarray(read(i)), levels)
        if i not in firsts and valid[i - 1] and valid[i]:
            pose, inverse, moved = align(
                before, now, start32[i - 1], start32[i], surface, scene.log_focal, center
            )
            if moved < _LARGEST_SURPRISE * eye_distance:  # False for NaN too
                start.append(i - 1)
                delta.append(np.asarray(pose, np.float64) - start32[i - 1])
                information.append(_ALIGNMENT_TRUST * np.asarray(inverse, np.float64))
        before = now
    start = np.array(start, int)
    return ba.Edges(
        start, start + 1, np.reshape(delta, (-1, 6)), np.reshape(information, (-1, 6, 6))
    )
