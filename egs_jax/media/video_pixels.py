"""Pictures as encoders of video take them: even sizes, BT.709, the pixels of a format.

Before: `film_format`; after: `video_writer` and `live_video`.
"""

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from jaxtyping import UInt8

from egs_jax.media.film_format import FilmFormat

Picture = UInt8[np.ndarray, "H Wd C"]
"""Red, green and blue, and opacity where a film has one."""
_ALIGNED = 64
"""Number of pixels of which a row in memory has a multiple."""
_PACKED = {3: "rgb24", 4: "rgba"}


class VideoPixels:
    """Makes frames for one encoder of pictures of one size.

    Args:
      width: Pixels across; an odd size is made even by repeating the last column.
      height: Pixels down, likewise.
      form: Whose pixels they get.
    """

    def __init__(self, width: int, height: int, form: FilmFormat):
        self._width, self._height, self._form = width, height, form
        self._reformatter = VideoReformatter()

    def describe(self, context: av.VideoCodecContext) -> None:
        """Tell an encoder that is not open yet what it will be given."""
        context.width, context.height = self._width + self._width % 2, self._even_height
        context.pix_fmt = self._form.pixels
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    @property
    def _even_height(self) -> int:
        return self._height + self._height % 2

    def frame(self, picture: Picture) -> av.VideoFrame:
        """Convert one picture, RGB or, where the format has opacity, RGBA.

        Raises:
          ValueError: if it has another size, type or number of channels.
        """
        width, height, channels = self._width, self._height, self._form.channels
        check_frame(picture, width, height, channels)
        # Rows of whole cache lines are converted faster. `from_ndarray` would copy them one by one
        # under Python's lock (0.5 ms a picture of 450 rows).
        aligned = -(-width // _ALIGNED) * _ALIGNED
        rows = np.empty((self._even_height, aligned, channels), np.uint8)
        rows[:height, :width] = picture
        if width % 2:
            rows[:height, width] = picture[:, -1]
        if height % 2:
            rows[height] = rows[height - 1]
        return self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(rows, _PACKED[channels], width + width % 2),
            format=self._form.pixels,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )


def check_frame(frame: np.ndarray, width: int, height: int, channels: int = 3) -> None:
    """Refuse anything but a picture of this size.

    Raises:
      ValueError: if `frame` is not uint8 [height, width, channels].
    """
    if frame.shape != (height, width, channels) or frame.dtype != np.uint8:
        raise ValueError(
            f"frame: got {frame.dtype} {frame.shape}, expected uint8 {(height, width, channels)}; "
            "convert it first"
        )
