"""Codes and poses of frames as bytes: what a page or a socket gets of a speech beside its sound.

A frame is a record: head and body pose, each a quaternion (w, x, y, z) and a shift [head units] to
the camera, and the codes as counts of 16 bits. Count 0 of a code is the middle of its range in
training, +-32767 are 1.25 half ranges off, beyond which `kernels.codes.limited` lets none go. A
record says all of its frame, so a stream can start anywhere. The page's twin: web/motion.js.

Before: `draw.motion_codes`; after: `page`.
"""

import numpy as np
from jaxtyping import Float, Int16

from kernels.codes import REACH

MOST_COUNT = 32767
"""Count of a code that is 1 + REACH half ranges from the middle of its range."""


def record(num_codes: int) -> np.dtype:
    """Return the type of a frame's record, of a multiple of four bytes."""
    even = num_codes + num_codes % 2
    return np.dtype([("head", "<f4", 7), ("body", "<f4", 7), ("codes", "<i2", even)])


def packed(
    ranges: Float[np.ndarray, "2 K"],
    codes: Float[np.ndarray, "B K"],
    heads: Float[np.ndarray, "B 4 4"],
    bodies: Float[np.ndarray, "B 4 4"],
) -> np.ndarray:
    """Return the records of B frames.

    Args:
      ranges: Least and greatest codes of training (`Baked.ranges`).
      codes: Of every frame, limited.
      heads: Head -> camera.
      bodies: Body -> camera.
    """
    made = np.zeros(len(codes), record(codes.shape[1]))
    made["head"], made["body"] = _told(heads), _told(bodies)
    made["codes"][:, : codes.shape[1]] = counted(ranges, codes)
    return made


def counted(
    ranges: Float[np.ndarray, "2 K"], codes: Float[np.ndarray, "B K"]
) -> Int16[np.ndarray, "B K"]:
    """Return codes as counts; a code is its range's middle and so many steps of `steps_of`."""
    middles = (ranges[0] + ranges[1]) / 2
    counts = np.rint((codes - middles[None]) / steps_of(ranges)[None])
    return np.clip(counts, -MOST_COUNT, MOST_COUNT).astype(np.int16)


def steps_of(ranges: Float[np.ndarray, "2 K"]) -> Float[np.ndarray, " K"]:
    """Return what a count of each code is."""
    return (ranges[1] - ranges[0]) / 2 * ((1 + REACH) / MOST_COUNT)


def _told(poses: Float[np.ndarray, "B 4 4"]) -> Float[np.ndarray, "B 7"]:
    """Return poses as unit quaternions, w >= 0, and shifts: the twin of `quatOf` of web/poses.js.

    SciPy's way takes ten times as long for a frame, of which a server has hundreds a second.
    """
    turns = np.moveaxis(poses[:, :3, :3].astype(np.float64), 0, -1)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turns
    rows = np.array([
        [1 + xx + yy + zz, zy - yz, xz - zx, yx - xy],
        [zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx],
        [xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy],
        [yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz],
    ])  # fmt: skip
    best = rows[range(4), range(4)].argmax(axis=0)  # of rows that are all 4 q_i q: the largest q_i
    quats = rows[best, :, np.arange(len(poses))]
    quats *= (np.where(quats[:, 0] < 0, -1, 1) / np.linalg.norm(quats, axis=1))[:, None]
    return np.concatenate([quats, poses[:, :3, 3]], axis=1)
