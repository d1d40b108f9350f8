"""Sound -> an AAC track in an MP4 container, in memory: what every browser plays."""

import io
from collections.abc import Iterable

import av
import numpy as np

SOUND_TYPE = "audio/mp4"
"""MIME type of what is made."""
RATE = 48_000
"""Every browser takes 48 kHz AAC; lower rates are refused by some."""
BIT_RATE = 64_000
"""Of one channel of speech: half a megabyte a minute."""


def encoded_sound(chunks: Iterable[np.ndarray], sample_rate: int) -> bytes:
    """Encode mono sound.

    Args:
      chunks: float32 samples in [-1, 1].
      sample_rate: Of `chunks` [Hz].

    Returns:
      The file; its first sample sounds at time 0.
    """
    file, count = io.BytesIO(), 0
    with av.open(file, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=RATE, layout="mono")
        track.bit_rate = BIT_RATE
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        for samples in chunks:
            chunk = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples, np.float32).reshape(1, -1), "fltp", "mono"
            )
            chunk.sample_rate, chunk.pts = sample_rate, count
            count += len(samples)
            for piece in resampler.resample(chunk):
                container.mux(track.encode(piece))
        for piece in [*resampler.resample(None), None]:
            container.mux(track.encode(piece))
    return file.getvalue()
