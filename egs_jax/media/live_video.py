"""Pictures -> H.264 of someone who looks on: every picture comes out as soon as it goes in.

Before: `video_pixels`; after: whoever sends frames one by one.
"""

from fractions import Fraction

import av

from egs_jax.media.clock import FPS
from egs_jax.media.film_format import h264, need_encoder
from egs_jax.media.video_pixels import Picture, VideoPixels

KEYFRAMES = 1.0
"""Most seconds between two pictures at which decoding can begin."""
# One thread: pictures are small, and many are encoded at once. Without latency x264 looks at no
# later picture, so none is put before an earlier one.
_LIVE = {"tune": "zerolatency", "g": str(round(KEYFRAMES * FPS)), "threads": "1"}


class LiveVideo:
    """An encoder of H.264 in Annex B, its parameter sets before every keyframe.

    Args:
      width: Pixels across; an odd size is made even by repeating the last column.
      height: Pixels down, likewise.

    Raises:
      InputError: if the ffmpeg of this PyAV has no x264.
    """

    def __init__(self, width: int, height: int):
        form = h264("h264", "libx264")
        need_encoder(form.video, "frames of H.264", "want others")
        self._pixels, self._count = VideoPixels(width, height, form), 0
        self._context = av.VideoCodecContext.create(form.video, "w")
        self._pixels.describe(self._context)
        self._context.time_base, self._context.framerate = Fraction(1, FPS), Fraction(FPS)
        self._context.options = dict(form.options) | _LIVE

    def encode(self, picture: Picture) -> bytes:
        """Return the access unit of the next picture; the first one opens the encoder.

        Raises:
          ValueError: if the picture has another size.
        """
        frame = self._pixels.frame(picture)
        frame.pts, frame.time_base = self._count, self._context.time_base
        self._count += 1
        return b"".join(bytes(packet) for packet in self._context.encode(frame))
