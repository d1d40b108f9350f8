"""The square of the source video that becomes the dataset's frame.

The face pass says where the head is over the whole clip. One crop serves the whole clip, so that
the background stands still and K stays one matrix.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

DEFAULT_SIZE = 512
MARGINS = (0.75, 0.5, 0.75)
"""Room kept around the face when cropping, in face heights: above, below, to each side."""


@dataclass(frozen=True)
class Crop:
    """The square of the source that becomes the frame."""

    left: int
    """First column of the source."""
    top: int
    """First row of the source."""
    side: int
    """Side of the square in the source, pixels."""
    size: int
    """Side of the frame, pixels."""

    def image(self, frame: UInt8[np.ndarray, "H Wd 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """Crop and scale."""
        rows, cols = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        square = frame[rows, cols]
        if self.side == self.size:
            return np.ascontiguousarray(square)
        shrinks = self.size < self.side
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(square, (self.size, self.size), interpolation=how)

    def landmarks(self, points: Float[np.ndarray, "*T 478 3"]) -> Float[np.ndarray, "*T 478 3"]:
        """Map landmarks of the source to pixels of the frame."""
        return ((points - [self.left, self.top, 0]) * (self.size / self.side)).astype(np.float32)


def choose_crop(
    landmarks: Float[np.ndarray, "T 478 3"], width: int, height: int, size: int | None
) -> Crop:
    """Choose the square around the head over the whole clip; a square clip is not cropped.

    Args:
      landmarks: Landmarks in pixels of the source.
      width: Width of the source, pixels.
      height: Height of the source, pixels.
      size: Side of the frame, pixels; None: 512, or less if the square shows less.

    Returns:
      The crop, within the picture.
    """
    side, left, top = min(width, height), 0, 0
    if width != height:
        points = landmarks[..., :2]
        tall = float(np.median(points[..., 1].max(1) - points[..., 1].min(1)))
        above, below, beside = (margin * tall for margin in MARGINS)
        x0, x1 = points[..., 0].min() - beside, points[..., 0].max() + beside
        y0, y1 = points[..., 1].min() - above, points[..., 1].max() + below
        side = int(min(side, np.ceil(max(x1 - x0, y1 - y0) / 2) * 2))
        left = int(np.clip(round((x0 + x1 - side) / 2), 0, width - side))
        top = int(np.clip(round((y0 + y1 - side) / 2), 0, height - side))
    return Crop(left, top, side, size or min(DEFAULT_SIZE, side - side % 2))
