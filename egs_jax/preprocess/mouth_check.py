"""In which frames something is before the mouth: a hand, a microphone, a cup.

A patch around mouth and chin, upright and of one size by the eyes, is kept of every frame. Nearly
all of them are lips that speak: a few dozen patches mixed explain each of them well. What stands
before the mouth for a while is explained by none of these mixes. The mixes are of frames that are
explained themselves, so nothing is learned of what is hidden; what is there for more than a third
of a film is taken for part of the person.
"""

import cv2
import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import binary_dilation, binary_opening

from kernels.checks import typechecked

_SIDE, _FINE = 12, 72  # pixels a side of a patch, and of what it is shrunk from
_LEFT, _TOP, _REACH = -0.6, 0.55, 1.2  # its place from between the eyes, in distances of the eyes
_MIXES = 24  # directions that patches of one person mix
_TRUSTED = 0.6  # share of the frames, those nearest the middle one, to begin with
_ROUNDS = 4
_UNEXPLAINED = 2.5  # times the usual error: no mouth
_LEAST = 9.0  # levels of 255, rms, that are always explained
_PART_OF_IT = 1 / 3  # share of the frames
_FEWEST = 200  # frames; of fewer, too few mouths are known to say what is none
_SHORT, _EDGE = 13, 4  # frames: shorter may be a rare sound; what comes and goes around longer


@typechecked
def mouth_patch(
    frame: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "478 3"]
) -> UInt8[np.ndarray, "12 12 3"]:
    """Cut out mouth and chin, upright by the eyes' outer corners."""
    right, left = landmarks[33, :2].astype(np.float64), landmarks[263, :2].astype(np.float64)
    middle, across = (right + left) / 2, left - right
    down = np.array([-across[1], across[0]])
    corner = middle + _LEFT * across + _TOP * down
    # From fine pixels to the frame; cv2 has pixel centers at integers.
    affine = np.column_stack([across, down, corner]) * [_REACH / _FINE, _REACH / _FINE, 1.0]
    affine[:, 2] += 0.5 * affine[:, :2].sum(axis=1) - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(
        frame, affine, (_FINE, _FINE), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.resize(fine, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def unexplained(patches: UInt8[np.ndarray, "T 12 12 3"]) -> Float[np.ndarray, " T"]:
    """Return what no mix of usual patches explains of each one: rms [levels of 255]."""
    flat = patches.reshape(len(patches), -1).astype(np.float32)
    error = np.sqrt(np.square(flat - np.median(flat, axis=0)).mean(axis=1))
    trusted = error <= np.quantile(error, _TRUSTED)
    for _ in range(_ROUNDS):
        mean = flat[trusted].mean(axis=0)
        known = flat[trusted] - mean
        scatter, count = known.T @ known, min(_MIXES, len(known) // 4)
        most = (len(scatter) - count, len(scatter) - 1)
        mixes = scipy.linalg.eigh(scatter, subset_by_index=most)[1].T
        error = _left(flat - mean, mixes)
        trusted = error <= _limit(error[trusted])
    return error


def _left(flat: np.ndarray, mixes: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(flat - (flat @ mixes.T) @ mixes).mean(axis=1))


def _limit(error: np.ndarray) -> float:
    """Return the error from which on it is no mouth."""
    return max(_UNEXPLAINED * float(np.median(error)), _LEAST)


def mouth_seen(patches: UInt8[np.ndarray, "T 12 12 3"]) -> Bool[np.ndarray, " T"]:
    """Tell in which frames nothing is before the mouth.

    Args:
      patches: `mouth_patch` of every frame of one person in one light. Of less than 8 s nothing
        can be told: every mouth counts as seen.
    """
    if len(patches) < _FEWEST:
        return np.ones(len(patches), bool)
    error = unexplained(patches)
    hidden = error > _limit(error)
    hidden = binary_opening(hidden, np.ones(_SHORT, bool))
    if hidden.mean() > _PART_OF_IT:
        return np.ones(len(hidden), bool)
    return ~binary_dilation(hidden, np.ones(2 * _EDGE + 1, bool))
