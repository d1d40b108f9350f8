"""Masks of video frames: person against background, and optionally the 19 parts of a face.

`PersonSegmenter` needs no file from the user. `FaceParser` is optional: its weights were trained on
data with non-commercial terms, so the user names the file and this project never fetches it.

Conventions: images uint8 [H, W, 3] RGB; masks have the size of the image.
"""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from egs_jax.face.litert import Network
from egs_jax.runtime.assets import asset_path
from egs_jax.runtime.errors import InputError
from kernels.checks import typechecked

SEGMENTER_SIZE = 256
PARSER_SIZE = 448

# Classes of CelebAMask-HQ in the order of the labels; left and right are the person's own.
FACE_CLASSES = (
    "background",
    "skin",
    "left_brow",
    "right_brow",
    "left_eye",
    "right_eye",
    "glasses",
    "left_ear",
    "right_ear",
    "earring",
    "nose",
    "mouth",
    "upper_lip",
    "lower_lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
)


class PersonSegmenter:
    """A network that tells people from the background."""

    def __init__(self, path: str | Path | None = None, *, threads: int = 2):
        """Load the network.

        Args:
          path: The network file; by default the pinned one, fetched if needed.
          threads: CPU threads.

        Raises:
          InputError: if the file is missing or is something else.
        """
        path = asset_path("person_segmenter", path)
        self._network = Network(
            path.read_bytes(),
            label=f"{path} (person segmenter)",
            input_shape=(1, SEGMENTER_SIZE, SEGMENTER_SIZE, 3),
            threads=threads,
        )

    @typechecked
    def segment(self, rgb: UInt8[np.ndarray, "H Wd 3"]) -> Float32[np.ndarray, "H Wd"]:
        """Return the probability in [0, 1] that each pixel shows a person."""
        small = _resize(rgb, SEGMENTER_SIZE)
        (output,) = self._network(small / 255.0).values()
        height, width = rgb.shape[:2]
        # Bilinear: stays within the range of the network's output.
        return cv2.resize(output[0, :, :, 0], (width, height), interpolation=cv2.INTER_LINEAR)


class FaceParser:
    """A network that names the part of the face that each pixel shows."""

    def __init__(self, path: str | Path, *, threads: int = 2):
        """Load the network.

        Args:
          path: A BiSeNet V2 face parser for CelebAMask-HQ, 448 x 448, as TensorFlow Lite.
          threads: CPU threads.

        Raises:
          InputError: if the file is missing or is something else.
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; give a CelebAMask-HQ face parser (448x448)")
        label = f"{path} (CelebAMask-HQ face parser)"
        self._network = Network(
            Path(path).read_bytes(),
            label=label,
            input_shape=(1, PARSER_SIZE, PARSER_SIZE, 3),
            threads=threads,
        )
        shapes = list(self._network.output_shapes.values())
        if shapes != [(PARSER_SIZE, PARSER_SIZE)]:
            raise InputError(
                f"{label}: gives {shapes}, expected one map of labels "
                f"{(PARSER_SIZE, PARSER_SIZE)}; give the right file"
            )

    @typechecked
    def parse(self, rgb: UInt8[np.ndarray, "H Wd 3"]) -> UInt8[np.ndarray, "H Wd"]:
        """Return the class of each pixel, an index into `FACE_CLASSES`.

        Args:
          rgb: A roughly square image of one head and its shoulders.

        Raises:
          InputError: if the network gives labels that are no class.
        """
        small = _resize(rgb, PARSER_SIZE)
        (labels,) = self._network(small / 127.5 - 1.0).values()
        if labels.min() < 0 or labels.max() >= len(FACE_CLASSES):
            raise InputError(
                f"face parser: labels reach {labels.min()}..{labels.max()}, expected 0.."
                f"{len(FACE_CLASSES) - 1}; give a network for CelebAMask-HQ"
            )
        height, width = rgb.shape[:2]
        return cv2.resize(
            labels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )


def _resize(rgb: np.ndarray, side: int) -> np.ndarray:
    """Resize to float32 [side, side, 3] in 0..255, averaging where it shrinks."""
    image = np.ascontiguousarray(rgb)
    shrinks = min(image.shape[:2]) > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=interpolation).astype(np.float32)
