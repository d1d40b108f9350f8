"""A drawn frame -> what its client wants to see of it, as a JPEG or as the next one of an H.264.

For pages that cannot draw themselves, and for programs. Before: `sessions`, `protocol`; after:
`speaker`.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.drawing import StreamFrame
from egs_jax.media.live_video import LiveVideo
from egs_jax.serve.protocol import Framing

QUALITY = 85
"""Of the JPEGs."""
Encode = Callable[[UInt8[np.ndarray, "H Wd 3"]], bytes]
"""Takes one client's pictures, in their order."""


def encoder(want: str, width: int, height: int) -> Encode:
    """Return what encodes a client's pictures, if it gets any.

    Raises:
      InputError: if this machine has no such encoder.
    """
    return LiveVideo(width, height).encode if want == "h264" else jpeg


def jpeg(picture: UInt8[np.ndarray, "H Wd 3"]) -> bytes:
    """Return a picture as a JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    found, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not found:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()


def seen(
    frame: StreamFrame, plate: UInt8[np.ndarray, "H Wd 3"] | None, framing: Framing
) -> UInt8[np.ndarray, "H Wd 3"]:  # fmt: skip
    """Return a frame's picture as its client looks at it, of the same size.

    Args:
      frame: Over the plate.
      plate: What is behind the person; None: something of its own behind each frame, which stays.
      framing: Zoom, and what is to be behind.
    """
    picture = frame.rgb
    if framing.background is not None and plate is not None:
        picture = over(picture, frame.alpha, plate, framing.background)
    return zoomed(picture, framing)


def over(
    rgb: UInt8[np.ndarray, "H Wd 3"], alpha: UInt8[np.ndarray, "H Wd"],
    plate: UInt8[np.ndarray, "H Wd 3"], color: tuple[int, int, int],
) -> UInt8[np.ndarray, "H Wd 3"]:  # fmt: skip
    """Put a color in the place of the plate behind a person."""
    clear = (255 - alpha.astype(np.int32))[..., None]
    change = clear * (np.asarray(color, np.int32)[None, None] - plate)
    return np.clip(rgb + np.rint(change / 255), 0, 255).astype(np.uint8)


def zoomed(picture: UInt8[np.ndarray, "H Wd 3"], framing: Framing) -> UInt8[np.ndarray, "H Wd 3"]:
    """Return a part of a picture at the size of all of it, the part held inside."""
    if framing.zoom == 1.0:
        return picture
    height, width = picture.shape[:2]
    half = 0.5 / framing.zoom
    x, y = (min(max(at, half), 1 - half) for at in (framing.x, framing.y))
    shift = [0.5 * width - framing.zoom * x * width, 0.5 * height - framing.zoom * y * height]
    matrix = np.array([[framing.zoom, 0, shift[0]], [0, framing.zoom, shift[1]]])
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
