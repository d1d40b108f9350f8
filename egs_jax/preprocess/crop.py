"""The square of the source video that becomes the dataset's frame.

The face pass says where the head is over the whole film. One crop serves the whole film, so that
the background stands still and K stays one matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

DEFAULT_SIZE = 512
MARGINS = (0.75, 0.5, 0.75)
"""Room kept around the face when cropping, in face heights: above, below, to each side."""

_SHARED = 1.25
"""How much larger a square may be than that of any one film to be that of all."""


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


def choose_crops(
    landmarks: Sequence[Float[np.ndarray, "T 478 3"]],
    sizes: Sequence[tuple[int, int]],
    size: int | None,
) -> list[Crop]:
    """Choose the square around the head in every film; square films are not cropped.

    Films of one picture size share the square, and so the place of their room, if it need not be
    much larger for that; else they share its side, so that the camera's focal length is one. Films
    of several sizes are brought to one size of the face.

    Args:
      landmarks: Landmarks of each film in pixels of the source; NaN where there is no face.
      sizes: Width and height of each film's pictures, pixels.
      size: Side of the frame, pixels; None: 512, or less if a square shows less.

    Returns:
      A crop for each film, within its picture, all of one `size`.
    """
    boxes = [_needed(points) for points in landmarks]
    alike = len(set(sizes)) == 1
    if alike:
        together = [min(box[0] for box in boxes), min(box[1] for box in boxes)]
        together += [max(box[2] for box in boxes), max(box[3] for box in boxes)]
        largest = max(_side(box) for box in boxes)
        if min(_side(together), *sizes[0]) <= _SHARED * min(largest, *sizes[0]):
            boxes = [together] * len(boxes)
    tall = [1.0 if alike else _face_height(points) for points in landmarks]
    sides = [
        width if width == height else _side(box)
        for box, (width, height) in zip(boxes, sizes, strict=True)
    ]
    ratio = max(side / unit for side, unit in zip(sides, tall, strict=True))
    # No more than every picture has: else the face would be larger where it fills its picture.
    ratio = min(ratio, *(min(shape) / unit for shape, unit in zip(sizes, tall, strict=True)))
    squares = [
        _square(box, ratio * unit, *shape)
        for box, unit, shape in zip(boxes, tall, sizes, strict=True)
    ]
    least = min(side for _, _, side in squares)
    return [Crop(*square, size or min(DEFAULT_SIZE, least - least % 2)) for square in squares]


def _face_height(landmarks: np.ndarray) -> float:
    rows = landmarks[..., 1]
    return float(np.nanmedian(rows.max(1) - rows.min(1)))


def _needed(landmarks: np.ndarray) -> list[float]:
    """Return left, top, right and bottom of what the head needs over a whole film."""
    above, below, beside = (margin * _face_height(landmarks) for margin in MARGINS)
    low, high = np.nanmin(landmarks, axis=(0, 1)), np.nanmax(landmarks, axis=(0, 1))
    return [low[0] - beside, low[1] - above, high[0] + beside, high[1] + below]


def _side(box: Sequence[float]) -> int:
    return int(np.ceil(max(box[2] - box[0], box[3] - box[1]) / 2) * 2)


def _square(box: Sequence[float], side: float, width: int, height: int) -> tuple[int, int, int]:
    """Return left, top and side of a square about the middle of a box, within the picture."""
    whole = min(round(side), width, height)
    left = int(np.clip(round((box[0] + box[2] - whole) / 2), 0, width - whole))
    top = int(np.clip(round((box[1] + box[3] - whole) / 2), 0, height - whole))
    return left, top, whole
