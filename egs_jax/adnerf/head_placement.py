"""Where the head is in a world whose cameras are given, and that world brought to ours.

The cameras of another tracker stay as they are: the same rays through the same pixels. What is free
is the choice of their world, a similarity: scale, axes and origin. It is the one that puts our
average face where the landmarks are seen, over frames in which the head has turned. A head that
never turns leaves open how far it is from the camera at a given size; a wide prior on the scale
decides then. The person's own mean shape is solved afterwards.

Conventions: OpenCV axes; our world is that of `tracking`. Letters: T frames.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from egs_jax.face.mesh import RIGID_POINTS
from egs_jax.preprocess.tracking import (
    NOISE_PER_EYE_DISTANCE,
    HeadTrack,
    eye_distance_px,
    fit_mean_shape,
    initial_shape,
    reprojection_rms,
)
from egs_jax.runtime.errors import InputError

_VIEWS = 64  # frames to use, spread evenly over those with a face
_EYES = [33, 263]
_SCALE_STD = 0.1  # of the log of the scale, about what distance and size of the eyes say
_SCALE_REACH = 0.3  # of the log, either way
_MOST_STEPS = 60  # ten are enough for poses that fit
_IMPLAUSIBLE = 0.15  # eye distances that the average face may miss the landmarks by


class Similarity(NamedTuple):
    """The map x -> scale * turn @ x + shift from our world to theirs."""

    scale: float
    turn: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, " 3"]

    def viewmats(self, theirs: Float[np.ndarray, "T 4 4"]) -> Float[np.ndarray, "T 4 4"]:
        """Return their world-to-camera transforms as ours, in our units."""
        ours = np.tile(np.eye(4), (len(theirs), 1, 1))
        turns = theirs[:, :3, :3]
        ours[:, :3, :3] = turns @ self.turn
        ours[:, :3, 3] = (turns @ self.shift + theirs[:, :3, 3]) / self.scale
        return ours


def place_head(
    viewmats: Float[np.ndarray, "T 4 4"],
    K: Float[np.ndarray, "3 3"],
    landmarks: Float[np.ndarray, "T 478 3"],
    valid: Bool[np.ndarray, " T"],
    canonical: Float[np.ndarray, "468 3"],
) -> HeadTrack:
    """Bring given cameras to our world, and solve the person's mean shape in it.

    Args:
      viewmats: World-to-camera transforms of a world in which the head is at rest.
      K: Intrinsics [pixels].
      landmarks: Face landmarks, x and y in pixels of the frame, z in the same scale.
      valid: Frames to go by: with a face, and a camera of their own.
      canonical: Canonical face mesh in centimeters.

    Returns:
      The track: the very same cameras, the head about +-0.8 large.

    Raises:
      InputError: if no placement of a face fits what is seen, so that cameras and frames cannot
        belong together.
    """
    shape = initial_shape(canonical)
    found = np.flatnonzero(valid)
    chosen = found[np.linspace(0, len(found) - 1, min(len(found), _VIEWS)).round().astype(int)]
    similarity = _fit(viewmats[chosen].astype(np.float64), K, landmarks[chosen], shape)
    placed = similarity.viewmats(viewmats).astype(np.float32)
    track = HeadTrack(viewmats=placed, K=K.astype(np.float32), mean_shape=shape)
    missed, eyes = reprojection_rms(track, landmarks, valid), eye_distance_px(landmarks[valid])
    if not (placed[valid, 2, 3].min() > 0 and missed < _IMPLAUSIBLE * eyes):
        raise InputError(
            f"cameras: they put the head {missed:.0f} px beside the faces in the frames (eyes are "
            f"{eyes:.0f} px apart); give poses and frames of one film, numbered alike"
        )
    return fit_mean_shape(track, landmarks, valid, canonical)


def _fit(
    viewmats: Float[np.ndarray, "V 4 4"], K: np.ndarray, landmarks: Float[np.ndarray, "V 478 3"],
    shape: Float[np.ndarray, "478 3"],
) -> Similarity:  # fmt: skip
    """Fit where the average face's rigid points are, by reprojection."""
    points, seen = shape[RIGID_POINTS].astype(np.float64), landmarks[:, RIGID_POINTS, :2]
    noise = NOISE_PER_EYE_DISTANCE * eye_distance_px(landmarks)
    start = _start(viewmats, K, landmarks, shape)

    def placed(numbers: np.ndarray) -> Similarity:
        turn = Rotation.from_rotvec(numbers[1:4]).as_matrix() @ start.turn
        scale = start.scale * np.exp(numbers[0])
        return Similarity(scale, turn, start.shift + start.scale * numbers[4:])

    def residual(numbers: np.ndarray) -> np.ndarray:
        poses = placed(numbers).viewmats(viewmats)
        camera = np.einsum("tij,nj->tni", poses[:, :3, :3], points) + poses[:, None, :3, 3]
        depth = np.maximum(camera[..., 2:], 1e-3)
        pixels = camera[..., :2] / depth * np.diag(K)[:2] + K[:2, 2]
        return np.append((pixels - seen).ravel() / noise, numbers[0] / _SCALE_STD)

    # Without bounds, poses that fit nothing are made too small to matter.
    bounds = np.array([_SCALE_REACH, *([np.inf] * 6)])
    found = least_squares(
        residual, np.zeros(7), loss="soft_l1", bounds=(-bounds, bounds), max_nfev=_MOST_STEPS
    )
    return placed(found.x)


def _start(
    viewmats: Float[np.ndarray, "V 4 4"], K: np.ndarray, landmarks: Float[np.ndarray, "V 478 3"],
    shape: Float[np.ndarray, "478 3"],
) -> Similarity:  # fmt: skip
    """Return a rough placement: turned as the landmarks are in space, in the world's origin."""
    source = shape[RIGID_POINTS] - shape[RIGID_POINTS].mean(axis=0)
    turns = []
    for viewmat, points in zip(viewmats, landmarks[:, RIGID_POINTS].astype(float), strict=True):
        to_camera, _ = Rotation.align_vectors(points - points.mean(axis=0), source)
        turns.append(viewmat[:3, :3].T @ to_camera.as_matrix())
    apart = float(np.linalg.norm(shape[_EYES[0]] - shape[_EYES[1]]))
    depth = float(np.median(viewmats[:, 2, 3]))
    scale = abs(depth) * eye_distance_px(landmarks) / (float(K[0, 0]) * apart)
    return Similarity(max(scale, 1e-9), Rotation.from_matrix(turns).mean().as_matrix(), np.zeros(3))
