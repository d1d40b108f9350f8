"""A head track's faithfulness to the video: its jitter against optical flow.

`tracking.reprojection_rms` tells whether the head is in the right place; `jitter_rms` whether it
is still when the video is still. The optical flow here has no part in the refinement of the
poses.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from egs_jax.face.mesh import RIGID_POINTS
from egs_jax.preprocess.tracking import HeadTrack, eye_distance_px
from kernels.checks import require

Picture = UInt8[np.ndarray, "H Wd 3"]
Gray = UInt8[np.ndarray, "H Wd"]
_MARGIN = 0.6  # eye distances around the rigid points that the flow gets to see
_NEIGHBORHOOD = 1 / 16  # eye distances: half width of the square whose median is a point's flow
_ROUND_TRIP = 0.5 / 114  # eye distances that forward plus backward flow may miss its start by


class JitterReport(NamedTuple):
    """Root mean square difference to the image's own frame-to-frame motion [px], smaller is better.

    Attributes:
      posed: Of the posed head's rigid points, over frames and points.
      still: Of a head that never moves: what there was to follow.
      landmarks: Of the raw landmarks.
      head_posed: As `posed`, of the median difference over the points of a frame, over frames: the
        head as one body, free of the noise of the flow at single points.
      measured: Share of points whose flow returned to its start, and so was used.
    """

    posed: float
    still: float
    landmarks: float
    head_posed: float
    measured: float


def jitter_rms(
    frames: Sequence[Picture] | UInt8[np.ndarray, "T H Wd 3"] | Callable[[int], Picture],
    track: HeadTrack,
    landmarks: Float[np.ndarray, "T 478 3"],
    valid: Bool[np.ndarray, " T"],
    runs: Sequence[tuple[int, int]] = (),
) -> JitterReport:
    """Compare the posed head's displacement between consecutive frames with the image's own.

    The image's displacement at a rigid point is the median optical flow around it; points whose
    flow forward and back does not return to its start are left out.

    Args:
      frames: RGB pictures (may be memory-mapped), or a function of the frame number.
      track: The head track.
      landmarks: Landmarks in pixels.
      valid: Whether a face was found; pairs of frames with two faces count.
      runs: Frames [start, stop) that follow one another in time; none named: all do.

    Raises:
      ValueError: if no two consecutive frames show a face.
    """
    read = frames if callable(frames) else lambda i: frames[i]
    pairs = np.setdiff1d(np.flatnonzero(valid[1:] & valid[:-1]), [first - 1 for first, _ in runs])
    require(len(pairs) > 0, "valid: expected two consecutive frames with a face, got none")
    posed = track.project(track.mean_shape[RIGID_POINTS])
    points = landmarks[:, RIGID_POINTS, :2].astype(np.float64)
    eye = eye_distance_px(landmarks[valid])
    dense = _flow_function()
    errors, used, last = [], [], (-1, None)
    for i in pairs:
        before = last[1] if last[0] == i else cv2.cvtColor(read(i), cv2.COLOR_RGB2GRAY)
        now = cv2.cvtColor(read(i + 1), cv2.COLOR_RGB2GRAY)
        last = (i + 1, now)
        flow, good = _point_flow(dense, before, now, points[i], eye)
        moves = np.stack([posed[i + 1] - posed[i], 0.0 * flow, points[i + 1] - points[i]])
        errors.append(moves - flow)
        used.append(good)
    error, use = np.array(errors), np.array(used)  # [P, 3, points, 2], [P, points]
    counted = use.any(axis=1)
    squared = (error**2).sum(axis=-1)
    each = [np.sqrt(squared[:, k][use].mean()) for k in range(3)]
    middle = np.nanmedian(np.where(use[..., None], error[:, 0], np.nan)[counted], axis=1)
    head = np.sqrt((middle**2).sum(axis=-1).mean())
    return JitterReport(*(float(x) for x in (*each, head, use.mean())))


def _flow_function() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function of optical flow [H, W, 2] between two gray images.

    It is dense inverse search (Kroeger et al. 2016).
    """
    # "Fast" stops at a quarter of the resolution: below it moves the compression, not the face.
    make = cv2.DISOpticalFlow_create  # type: ignore[attr-defined]
    dis = make(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return lambda a, b: dis.calc(a, b, None)


def _point_flow(
    dense: Callable[[np.ndarray, np.ndarray], np.ndarray], before: Gray, now: Gray,
    points: Float[np.ndarray, "N 2"], eye: float,
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:  # fmt: skip
    """Return flow [points, 2] at points of the first image, and whether it returns there."""
    size = np.array(before.shape[::-1])
    low = np.clip(np.floor(points.min(axis=0) - _MARGIN * eye), 0, size - 32).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + _MARGIN * eye), low + 32, size).astype(int)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    first, second = (np.ascontiguousarray(image[window]) for image in (before, now))
    radius = max(1, round(_NEIGHBORHOOD * eye))
    forward = _median_at(dense(first, second), points - low, radius)
    back = _median_at(dense(second, first), points - low + forward, radius)
    return forward, np.linalg.norm(forward + back, axis=-1) < _ROUND_TRIP * eye


def _median_at(flow: np.ndarray, points: np.ndarray, radius: int) -> np.ndarray:
    """Return the median flow [points, 2] over a square around each point."""
    limit = np.array(flow.shape[1::-1]) - 1
    reach = np.arange(-radius, radius + 1)
    # Outside the picture its border is repeated.
    columns, rows = (
        np.clip(middle[:, None] + reach, 0, most)
        for middle, most in zip(np.floor(points).astype(int).clip(0, limit).T, limit, strict=True)
    )
    patches = flow[rows[:, :, None], columns[:, None, :]]
    return np.median(patches.reshape(len(points), -1, 2), axis=1)
