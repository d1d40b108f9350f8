"""Sound files in and out: any audio or video file as mono float32 on the video's `clock`.

What carries the speech is heard (`speech_source`). PyAV decodes, soxr resamples; no program is
started.
"""

import os
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.sound_tracks import decode, open_media  # noqa: F401 (opens films too)
from egs_jax.media.speech_source import speech_source
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically
from kernels.checks import require

LARGEST_PEAK = 8.0  # decoded lossy sound overshoots 1 a little; a factor of 8 is a wrong scale


def _checked(samples: np.ndarray, path: Path, seconds: float) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise InputError(
            f"{path}: has NaN or infinite samples near {seconds:.1f} s; export it again"
        )
    if np.abs(samples).max(initial=0.0) > LARGEST_PEAK:
        raise InputError(
            f"{path}: has samples far beyond full scale near {seconds:.1f} s; "
            "float sound must lie in -1 ... 1, export it again"
        )
    return samples


def stream_audio(
    path: str | os.PathLike, sample_rate: int = SAMPLE_RATE, track: int | None = None
) -> Iterator[np.ndarray]:
    """Yield a file's sound as mono chunks, in constant memory.

    Args:
      path: Any local audio or video file that ffmpeg reads.
      sample_rate: Rate of the result [Hz].
      track: Number of the sound track, the first is 1; None: the one with the speech.

    Yields:
      float32 [S'] in [-1, 1] (the overshoot of lossy formats is clipped), never empty, of the
      decoder's own lengths (at most about 1 s). Sample 0 is at time 0 of the container.

    Raises:
      InputError: if the file is missing, empty, damaged, cut short, without that sound track or a
        single sample, has a rate out of RATES, or samples that are not finite or far beyond full
        scale.
    """
    import soxr  # noqa: PLC0415

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'not a' if path.exists() else 'no such'} file; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy it again")
    resampler, count = None, 0

    def clipped(samples: np.ndarray) -> Iterator[np.ndarray]:
        if len(samples):
            yield np.clip(samples, -1.0, 1.0)

    source = speech_source(path, track)
    for signals, rate in decode(path, source.track, source.mix):
        decoded = signals[0]
        count += len(decoded)
        samples = _checked(decoded, path, count / rate)
        if rate != sample_rate:
            if resampler is None:
                resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", quality="HQ")
            samples = resampler.resample_chunk(samples)
        yield from clipped(samples)
    if resampler is not None:
        yield from clipped(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    if count == 0:
        raise InputError(f"{path}: its sound track is empty; give a file with sound")


def read_audio(
    path: str | os.PathLike, sample_rate: int = SAMPLE_RATE, track: int | None = None
) -> Float[np.ndarray, " S"]:
    """Read a file's whole sound: `stream_audio` in one array.

    Args:
      path: Any local audio or video file that ffmpeg reads.
      sample_rate: Rate of the result [Hz].
      track: Number of the sound track, the first is 1; None: the one with the speech.

    Returns:
      Mono samples in [-1, 1]; sample k is at k / sample_rate seconds on the container's clock.

    Raises:
      InputError: see `stream_audio`.
    """
    return np.concatenate(list(stream_audio(path, sample_rate, track)))


def write_wav(
    path: str | os.PathLike, samples: Float[np.ndarray, " S"], sample_rate: int = SAMPLE_RATE
) -> None:
    """Write mono 16-bit PCM; the file appears under its name only when it is complete.

    Args:
      path: The file; its folder must exist.
      samples: Clipped to [-1, 1 - 2^-15]; multiples of 2^-15 come back exactly.
      sample_rate: In Hz.

    Raises:
      ValueError: if `samples` is not one-dimensional or not finite.
    """
    samples = as_samples(samples)
    pcm = np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype("<i2")
    with atomically(Path(path)) as part, wave.open(str(part), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(pcm.tobytes())


def as_samples(samples: np.ndarray) -> Float[np.ndarray, " S"]:
    """Return `samples` as float32.

    Raises:
      ValueError: if they are not one-dimensional or not finite.
    """
    samples = np.asarray(samples, np.float32)
    require(
        samples.ndim == 1,
        f"samples: expected one dimension, got shape {samples.shape}; average the channels first",
    )
    require(
        bool(np.isfinite(samples).all()),
        "samples: expected finite values, got NaN or infinity; check the source",
    )
    return samples
