"""Statistics of a clip by which training chooses frames and measures lips.

Before: `folder`; after: `dataset`. T frames of a clip; `train` are its training frames, in order.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from egs_jax.face.mesh import LEFT_EYE, RIGHT_EYE, mouth_width

BLINK = 0.4
"""Blink above which eyes count as shut or half shut."""
REST_SHARE = 0.15
"""Share of the training frames, those with the least open mouth, that silence is paired with."""
EYES_MARGIN = 0.1
"""Margin around both eyes, as a share of their width."""


def blink_frames(
    blink: Float[np.ndarray, " T"], train: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " K"]:
    """Return the training frames whose eyes are shut or half shut; there may be none."""
    return train[blink[train] > BLINK]


def rest_frames(
    mouth_opening: Float[np.ndarray, " T"], train: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " R"]:
    """Return the training frames whose mouth is shut or nearly so."""
    opening = np.asarray(mouth_opening[train])
    return train[opening <= np.quantile(opening, REST_SHARE)]


def told_by_sound(
    opening: Float[np.ndarray, " N"], heard: Bool[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Return in which frames the mouth can be told from the sound.

    Where nobody is heard it rests. A breath, or a smile before the first word, is told by nothing
    that is heard: a mouth then more open than the middle one of speech would teach that silence
    opens it. (`mouth_r` of new speech was 0.29 with, 0.52 without the first half second of a film
    of 10 s that begins so.)
    """
    return heard | (opening <= np.median(opening[heard])) if heard.any() else ~heard


def calmest(viewmats: Float[np.ndarray, "T 4 4"]) -> int:
    """Find the frame whose pose is nearest the mean one."""
    return int(np.argmin(np.square(viewmats - viewmats.mean(axis=0)).sum(axis=(1, 2))))


def lip_shapes(
    mouth_opening: Float[np.ndarray, " T"],
    landmarks: Float[np.ndarray, "T 478 3"],
    train: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "T 2"]:
    """Return opening and width of the mouth, in standard deviations from the training mean."""
    width = mouth_width(np.asarray(landmarks))
    shapes = np.stack([mouth_opening, width], axis=1)
    seen = shapes[train]
    spread = np.maximum(seen.std(axis=0), 1e-3)  # a still mouth has none
    return np.float32((shapes - seen.mean(axis=0)) / spread)


def sound_spread(
    audio_features: Float[np.ndarray, "R F"], train: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " F"]:
    """Return the standard deviation of every sound feature over the training frames.

    `train` says where they are in the table of features, in frames of two rows.
    """
    rows = (2 * train[:, None] + np.arange(2)).ravel()  # 50 rows a second
    return np.asarray(audio_features)[rows].std(axis=0)


def eyes_rects(landmarks: Float[np.ndarray, "T 478 3"]) -> Float[np.ndarray, "T 4"]:
    """Return row_min, row_max, col_min, col_max around both eyes, in the landmarks' pixels."""
    points = landmarks[:, np.concatenate([RIGHT_EYE, LEFT_EYE]), 1::-1]  # row, column
    low, high = points.min(axis=1), points.max(axis=1)
    margin = EYES_MARGIN * (high[:, 1:] - low[:, 1:])
    return np.stack([low - margin, high + margin], axis=2).reshape(-1, 4)


def inside(rects: Float[np.ndarray, "T 4"], height: int, width: int) -> Int[np.ndarray, "T 4"]:
    """Round rectangles (top, bottom, left, right) to pixels and cut them to the image."""
    return np.clip(np.rint(rects), 0, (height, height, width, width)).astype(np.int32)
