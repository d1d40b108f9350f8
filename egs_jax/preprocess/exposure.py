"""One exposure for several films: each one's colors are brought to those of the longest.

Light and camera settings differ from film to film; the person does not. So the colors of the same
points of the face say by how much each channel is to be multiplied (in the pictures' own numbers:
to multiply light is to multiply those, too, by another factor).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_DARK, _CLIPPED = 12.0, 245.0  # levels: colors beyond say nothing
_LEAST = 0.02  # gains nearer to 1 are left alone
_MOST = 2.0
_FEWEST = 8  # points that say it


def exposure_gains(
    colors: Sequence[Float[np.ndarray, "P 3"]], lengths: Sequence[int]
) -> list[Float[np.ndarray, "3"]]:
    """Return what the channels of every film are multiplied by; ones where it would change nothing.

    Args:
      colors: Colors of the same points of the face in each film, 0 to 255.
      lengths: Frames of each film; the longest film stays as it is.
    """
    wanted = colors[int(np.argmax(lengths))]
    gains = []
    for found in colors:
        known = ((np.minimum(found, wanted) > _DARK) & (np.maximum(found, wanted) < _CLIPPED)).all(
            axis=1
        )
        gain = np.ones(3)
        if known.sum() >= _FEWEST:
            gain = np.median(wanted[known] / found[known], axis=0)
        gain = np.clip(gain, 1 / _MOST, _MOST)
        gains.append(gain if np.abs(gain - 1).max() > _LEAST else np.ones(3))
    return gains


def exposed(
    frame: UInt8[np.ndarray, "H W 3"], gain: Float[np.ndarray, "3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Multiply the channels of a picture."""
    if (gain == 1).all():
        return frame
    table = np.clip(np.rint(np.arange(256)[:, None] * gain[None]), 0, 255).astype(np.uint8)
    return cv2.LUT(frame, table[None])
