"""Pictures and sound -> a writer, about alternately, so that neither waits for long in memory.

Before: whatever draws and hears; after: `video_writer`, `encoder_process`, `picture_folder`.
"""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from typing import Protocol

import numpy as np

from egs_jax.media.clock import FPS
from egs_jax.media.film_format import FilmFormat
from egs_jax.media.video_pixels import Picture
from egs_jax.media.video_writer import PathLike, Sound, VideoWriter

_SOUND_EVERY = 25
"""Pictures between two pieces of sound."""


def write_video(
    path: PathLike,
    frames: Iterable[Picture],
    fps: float = FPS,
    audio: Sound | Iterable[Sound] | None = None,
    sample_rate: int | None = None,
    form: FilmFormat | None = None,
) -> int:
    """Write pictures and sound as a film, interleaved, in constant memory, all or nothing.

    The film lasts as long as its pictures: sound beyond them is dropped, missing sound is silence.

    Args:
      path: Where to write.
      frames: RGB pictures, all of one size.
      fps: Pictures a second.
      audio: Mono samples in [-1, 1], or an iterable of such chunks, or None.
      sample_rate: Samples a second of `audio`.
      form: What its file is made of; None: H.264 and AAC in mp4.

    Returns:
      The number of frames written.

    Raises:
      InputError: if the folder is missing or cannot be written.
      OSError: if the disk is full or fails.
      ValueError: if there is no frame, a wrong shape, or sound without a sample rate.
    """
    if (audio is None) != (sample_rate is None):
        raise ValueError(
            "write_video: got audio or sample_rate alone, expected both or neither; give both"
        )
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError("write_video: got no frame, expected at least one; check the frame source")
    height, width = first.shape[:2]
    with VideoWriter(path, width, height, fps, sample_rate, form) as writer:
        return feed(writer, itertools.chain([first], iterator), fps, audio, sample_rate)


class Writer(Protocol):
    """Anything that takes a film's pictures and sound."""

    def write_frame(self, frame: Picture) -> None:
        """Append one RGB picture of the film's size."""

    def write_audio(self, samples: Sound) -> None:
        """Append mono sound in [-1, 1]."""


def feed(
    writer: Writer,
    frames: Iterable[Picture],
    fps: float,
    audio: Sound | Iterable[Sound] | None,
    sample_rate: int | None,
) -> int:
    """Give pictures and sound to a writer about alternately, sound as long as the pictures.

    Args:
      writer: Takes the film's pieces.
      frames: RGB pictures, all of one size.
      fps: Pictures a second.
      audio: Mono samples in [-1, 1], or an iterable of such chunks, or None.
      sample_rate: Samples a second of `audio`, None for a silent film.

    Returns:
      The number of frames written.
    """
    sound, count = _SoundSource(audio), 0
    per_frame = (sample_rate or 0) / Fraction(fps).limit_denominator(1001)
    for count, frame in enumerate(frames, 1):
        writer.write_frame(frame)
        if sample_rate is not None and count % _SOUND_EVERY == 0:
            writer.write_audio(sound.until(round(count * per_frame)))
    if sample_rate is not None:
        writer.write_audio(sound.until(round(count * per_frame)))
    return count


class _SoundSource:
    """Sound that is handed out in pieces of any length, and is silent once it has run out."""

    def __init__(self, audio: Sound | Iterable[Sound] | None):
        self._chunks = iter([audio] if isinstance(audio, np.ndarray) else (audio or ()))
        self._rest = np.zeros(0, np.float32)
        self._given = 0

    def until(self, sample: int) -> Sound:
        """Return the samples from where the last call ended to `sample`, float32."""
        parts, missing = [], sample - self._given
        while missing > 0:
            if self._rest.size == 0:
                chunk = next(self._chunks, None)
                self._rest = (
                    np.zeros(missing, np.float32)
                    if chunk is None
                    else np.asarray(chunk, np.float32).reshape(-1)
                )
                continue
            parts.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= parts[-1].size
        self._given = sample
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
