"""Sound files in and out: any audio or video file as mono float32 on the video's `clock`.

Late starts and gaps become silence, overlaps are cut, so picture and sound stay together (within
half a video frame) however long the file is. PyAV decodes, soxr resamples; no program is started.
"""

import os
import struct
import wave
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.runtime.files import atomically
from kernels.checks import require

if TYPE_CHECKING:
    import av

_TIME_TOLERANCE = 0.02  # s: half a video frame; Matroska and FLV round their timestamps to 1 ms
_LARGEST_GAP = 3600.0  # s: a longer jump is a broken clock, not a pause
LARGEST_PEAK = 8.0  # decoded lossy sound overshoots 1 a little; a factor of 8 is a wrong scale
RATES = (8_000, 192_000)  # Hz: what is taken for a rate of sound
_EXACT_ENDS = {"mov", "wav", "flac", "aiff", "w64"}  # formats whose header knows the duration


def _to_mono(frame: "av.AudioFrame") -> np.ndarray:
    """Return the mean of a decoded frame's channels, float32, full scale 1."""
    samples = frame.to_ndarray()  # planar: [channels, n]; packed: [1, n * channels]
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples.mean(axis=0, dtype=np.float64).astype(np.float32)


def _on_clock(
    frames: Iterable["av.AudioFrame"], start: Fraction, path: Path
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (mono samples, their rate) of decoded frames, without holes, the first at `start`."""
    position, rate, is_first = 0, 0, True
    for frame in frames:
        samples = _to_mono(frame)
        if rate not in {0, frame.sample_rate}:
            raise InputError(f"{path}: its sample rate changes on the way; convert it to wav first")
        rate = frame.sample_rate
        if not RATES[0] <= rate <= RATES[1]:
            raise InputError(
                f"{path}: {rate} samples a second, expected {RATES[0]} to {RATES[1]}; convert it"
            )
        late = 0
        if frame.pts is not None:
            late = round((frame.pts * frame.time_base - start) * rate) - position
        if is_first or abs(late) > _TIME_TOLERANCE * rate:
            if late > _LARGEST_GAP * rate:
                raise InputError(
                    f"{path}: its sound has a gap of {late / rate:.0f} s; re-encode the file"
                )
            for begin in range(0, late, rate):  # in pieces: memory stays constant
                yield np.zeros(min(rate, late - begin), np.float32), rate
            samples = samples[max(-late, 0) :]
            position += max(late, 0)
        is_first = False
        position += len(samples)
        yield samples, rate


def open_media(path: Path) -> "av.container.InputContainer":
    """Open a sound or video file for reading: a PyAV container.

    An absolute path can be neither an option nor a URL; the white list keeps play lists from
    reaching the network; titles in an odd encoding are no reason to refuse a file (PyAV 19 knows
    that by itself and has no such argument).

    Raises:
      av.error.FFmpegError, OSError, ValueError: if it cannot be opened.
    """
    import av  # noqa: PLC0415 (loads ffmpeg)

    lenient = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    return av.open(str(path.resolve()), options={"protocol_whitelist": "file"}, **lenient)


def _decode(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (mono samples, their rate) of a file; errors name the file and the cause."""
    import av  # noqa: PLC0415 (loads ffmpeg)

    seconds = 0.0
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: has no sound track; give a file with sound")
            sound = container.streams.best("audio")
            zero = Fraction(container.start_time or 0, av.time_base)
            for samples, rate in _on_clock(container.decode(sound), zero, path):
                seconds += len(samples) / rate
                yield samples, rate
            declared = _wav_seconds(path)
            if sound.duration and _EXACT_ENDS & set(container.format.name.split(",")):
                end = ((sound.start_time or 0) + sound.duration) * sound.time_base - zero
                declared = max(declared, float(end))
            if seconds < 0.95 * declared - 0.5:
                raise InputError(
                    f"{path}: cut short, its sound ends after {seconds:.1f} of "
                    f"{declared:.1f} s; copy it again"
                )
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (av.error.FFmpegError, OSError) as error:
        where = f"its sound is damaged near {seconds:.1f} s" if seconds else "cannot be read"
        cause = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{path}: {where} ({cause}); re-encode it or copy it again") from error


def _wav_seconds(path: Path) -> float:
    """Return the length that a wav's header promises [s], which ffmpeg ignores; 0 if none."""
    with path.open("rb") as file:
        head, byte_rate = file.read(12), 0
        while head[:4] == b"RIFF" and head[8:] == b"WAVE" and len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":  # who writes into a pipe does not know, and says about 2 GB or more
                return size / byte_rate if byte_rate and size < 0x7FFF_0000 else 0.0
            after = file.tell() + size + size % 2
            if name == b"fmt ":
                byte_rate = int.from_bytes(file.read(12)[8:], "little")
            file.seek(after)
    return 0.0


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


def stream_audio(path: str | os.PathLike, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Yield a file's sound as mono chunks, in constant memory.

    Args:
      path: Any local audio or video file that ffmpeg reads. Channels are averaged.
      sample_rate: Rate of the result [Hz].

    Yields:
      float32 [S'] in [-1, 1] (the overshoot of lossy formats is clipped), never empty, of the
      decoder's own lengths (at most about 1 s). Sample 0 is at time 0 of the container.

    Raises:
      InputError: if the file is missing, empty, damaged, cut short, without a sound track or a
        single sample, has a rate out of RATES, or samples that are not finite or far beyond full
        scale.
    """
    import soxr  # noqa: PLC0415

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy it again")
    resampler, count = None, 0

    def clipped(samples: np.ndarray) -> Iterator[np.ndarray]:
        if len(samples):
            yield np.clip(samples, -1.0, 1.0)

    for decoded, rate in _decode(path):
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


def read_audio(path: str | os.PathLike, sample_rate: int = SAMPLE_RATE) -> Float[np.ndarray, " S"]:
    """Read a file's whole sound: `stream_audio` in one array.

    Args:
      path: Any local audio or video file that ffmpeg reads. Channels are averaged.
      sample_rate: Rate of the result [Hz].

    Returns:
      Mono samples in [-1, 1]; sample k is at k / sample_rate seconds on the container's clock.

    Raises:
      InputError: see `stream_audio`.
    """
    return np.concatenate(list(stream_audio(path, sample_rate)))


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
