"""The one clock of pictures and sound.

Time 0 of a file is the `start_time` of its container: the smallest start over its streams. Frame k
is the picture at k / FPS seconds, sample k the sound at k / SAMPLE_RATE seconds on that clock, so
frame k and sample k * SAMPLE_RATE / FPS belong together, whatever the rates, offsets and gaps of
the file. Nothing is ever stretched.
"""

import numpy as np
from jaxtyping import Float32, Int

FPS = 25
"""Frames a second of every dataset and avatar, and of a film if nothing else is asked for."""
SAMPLE_RATE = 16_000
"""Samples a second of the sound that is heard [Hz]."""
FRAME_RATES = (25, 30, 50, 60)
"""Frames a second that a film of an avatar may have."""


def places(
    frames: Int[np.ndarray, " B"], fps: int, rate: int
) -> tuple[Int[np.ndarray, " B"], Float32[np.ndarray, " B"]]:
    """Return where frames of a film at `fps` fall among things that come `rate` a second.

    Returns:
      The number of the last one before or at each frame, and the share of the way from it to the
      next one: below 1, and 0 at the thing's own time.
    """
    whole, rest = np.divmod(frames * rate, fps)
    return whole, (rest / fps).astype(np.float32)
