"""Body poses: how neck and shoulders move, apart from the head.

A body turns less than its head, and the picture of its torso says how: the torso of every frame is
registered to that of one rest frame by a similarity (shift, roll, scale), so that nothing drifts.
A similarity is what a rigid motion in front of the camera looks like as long as the shoulders do
not turn: x and y of the motion are the shift at the torso's depth, z is the scale, the rotation
about the optical axis is the roll. Turning and bending shoulders are not in it. They are what
`BodyTrack.residual_px` tells.

Conventions: OpenCV axes; places in the picture as in `torso_registration`. Body space is head space
at the rest frame. Letters: T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float, Float32, UInt8
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter

from egs_jax.preprocess.torso_registration import Fit, Similarity, Template, find_torso, register
from kernels.checks import require

Picture = UInt8[np.ndarray, "H Wd 3"]
_SMOOTHING = (3, 5)  # frames: of the median, and of the parabola fitted around each frame
_SELDOM = 0.5  # share of frames registered below which there is no motion to tell


@dataclass(frozen=True)
class BodyTrack:
    """Body poses of a clip and how far to believe them.

    Attributes:
      cam_from_body: [T, 4, 4] float32; at the rest frame it is the head's.
      followed: Whether there was a torso to follow; if not, the body is still at the rest pose.
      residual_px: Motion of parts of the torso that the poses do not explain, rms over the torso:
        median and 95 % quantile over frames [pixels of the frames]. NaN without a torso.
      failed: Share of frames without a registration of their own, held from their neighbors.
      moves_px: How far the torso moves about its mean place, rms over frames and torso [pixels].
      torso_share: Share of the rest frame's picture that the torso takes.
    """

    cam_from_body: Float32[np.ndarray, "T 4 4"]
    followed: bool
    residual_px: tuple[float, float]
    failed: float
    moves_px: float
    torso_share: float


def track_body(
    frames: Sequence[Picture],
    head_masks: Sequence[Bool[np.ndarray, "H Wd"]],
    person_masks: Sequence[UInt8[np.ndarray, "H Wd"]],
    viewmats: Float[np.ndarray, "T 4 4"],
    K: Float[np.ndarray, "3 3"],
    rest: int,
    runs: Sequence[tuple[int, int]] | None = None,
) -> BodyTrack:
    """Follow the torso through a clip.

    Frames and head masks are read once each (twice at the rest frame), outwards from the rest
    frame; person masks at the rest frame only.

    Args:
      frames: RGB pictures by number.
      head_masks: Heads without neck by number.
      person_masks: Head, neck and torso by number; above 127 is person.
      viewmats: Head poses, head to camera.
      K: Intrinsics [pixels].
      rest: Number of the rest frame, in which body and head share one space.
      runs: Frames [start, stop) that follow one another in time; None: all do. Where none of a
        run is registered, its body stands still where its head is on average.

    Returns:
      Body poses and their figures. Where too little torso is seen, or it cannot be registered in
      half of the frames, the body is still at the rest pose and `followed` is False.

    Raises:
      ValueError: if lengths differ or `rest` is no frame.
    """
    count = len(viewmats)
    require(
        count == len(frames) == len(head_masks) == len(person_masks) and 0 <= rest < count,
        f"frames, head_masks, person_masks, viewmats, rest: expected equal lengths and a frame of "
        f"them, got {len(frames)}, {len(head_masks)}, {len(person_masks)}, {count} and {rest}",
    )
    viewmats, K = np.asarray(viewmats, np.float64), np.asarray(K, np.float64)
    torso, share = find_torso(frames[rest], head_masks[rest], person_masks[rest], K)
    still = np.tile(viewmats[rest], (count, 1, 1)).astype(np.float32)
    nothing = BodyTrack(still, False, (np.nan, np.nan), 1.0, 0.0, share)
    if torso is None:
        return nothing
    heads = _head_places(viewmats, K)
    fits = _register_all(frames, head_masks, torso, heads, rest)
    good = np.array([fit.good for fit in fits])
    if good.mean() < _SELDOM:
        return nothing
    path = _path(fits, good, heads, [(0, count)] if runs is None else runs, rest)
    placed = path[:, :1] * torso.levels[0].points + path[:, 1:]  # [T, N]
    moves = np.abs(placed - placed.mean(axis=0))
    residual = np.array([fit.residual for fit in fits])[good]
    return BodyTrack(
        cam_from_body=_poses(path, viewmats[rest], K).astype(np.float32),
        followed=True,
        residual_px=(float(np.median(residual)), float(np.quantile(residual, 0.95))),
        failed=float(1 - good.mean()),
        moves_px=float(np.sqrt(np.mean(moves**2))),
        torso_share=share,
    )


def _head_places(viewmats: Float[np.ndarray, "T 4 4"], K: np.ndarray) -> np.ndarray:
    """Return where the head's middle is seen [T], complex, from the principal point."""
    x, y, z = viewmats[:, :3, 3].T
    return K[0, 0] * x / z + 1j * K[1, 1] * y / z


def _register_all(
    frames: Sequence[Picture], head_masks: Sequence[np.ndarray], torso: Template,
    heads: Complex[np.ndarray, " T"], rest: int,
) -> list[Fit]:  # fmt: skip
    """Register every frame, each started from its neighbor towards the rest frame."""
    fits = {}
    for numbers in (range(rest, len(heads)), range(rest - 1, -1, -1)):
        start, before = Similarity(), rest
        for i in numbers:
            frame, head = np.asarray(frames[i]), np.asarray(head_masks[i])
            fit = register(frame, head, torso, start)
            if not fit.good:  # lost: the whole person may have moved
                moved = Similarity(start.turn, start.shift + heads[i] - heads[before])
                fit = register(frame, head, torso, moved)
            if fit.good:
                start, before = fit.similarity, i
            fits[i] = fit
    return [fits[i] for i in range(len(heads))]


def _path(
    fits: list[Fit], good: Bool[np.ndarray, " T"], heads: Complex[np.ndarray, " T"],
    runs: Sequence[tuple[int, int]], rest: int,
) -> Complex[np.ndarray, "T 2"]:  # fmt: skip
    """Return turn and shift of every frame, [T, 2] complex, bridged, smoothed, (1, 0) at `rest`.

    Registration to one picture trembles by some hundredths of a pixel only, so little smoothing is
    needed: wider windows fit the torso's true motion worse.
    """
    path = np.array([fit.similarity for fit in fits], complex)
    for first, stop in runs:
        part, own = slice(first, stop), good[first:stop]
        if own.any():
            path[part] = _smoothed(path[part], own)
        else:
            path[part] = 1, heads[part].mean() - heads[rest]
    turn = path[:, 0] / path[rest, 0]
    path = np.stack([turn, path[:, 1] - turn * path[rest, 1]], -1)
    path[rest] = 1, 0
    return path


def _smoothed(
    path: Complex[np.ndarray, "T 2"], good: Bool[np.ndarray, " T"]
) -> Complex[np.ndarray, "T 2"]:
    numbers = np.arange(len(path))
    lines = np.stack([path.real, path.imag], -1).reshape(len(path), 4)
    lines = np.stack([np.interp(numbers, numbers[good], v[good]) for v in lines.T], -1)
    median, window = _SMOOTHING
    lines = median_filter(lines, (median, 1), mode="nearest")
    if len(lines) >= window:
        lines = savgol_filter(lines, window, 2, axis=0, mode="nearest")
    return lines[:, 0::2] + 1j * lines[:, 1::2]


def _poses(
    path: Complex[np.ndarray, "T 2"], at_rest: Float[np.ndarray, "4 4"], K: np.ndarray
) -> Float[np.ndarray, "T 4 4"]:
    """Return body poses whose torso, at the depth of the rest frame's head, moves by `path`."""
    turn, shift = path.T
    depth = at_rest[2, 3] / np.abs(turn)
    unit = turn / np.abs(turn)
    motion = np.tile(np.eye(4), (len(path), 1, 1))
    motion[:, 0, 0], motion[:, 0, 1] = unit.real, -unit.imag
    motion[:, 1, 0], motion[:, 1, 1] = unit.imag, unit.real
    motion[:, 0, 3], motion[:, 1, 3] = shift.real * depth / K[0, 0], shift.imag * depth / K[1, 1]
    motion[:, 2, 3] = depth - at_rest[2, 3]
    return motion @ at_rest
