"""Sound tracks, decoded: any track of any file on the video's `clock`, its channels mixed down.

Late starts and gaps become silence, overlaps are cut, so picture and sound stay together (within
half a video frame) however long the file is. Channels are weighed as ITU-R BS.775 downmixes them.
Before: a file; after: `speech_source`, which chooses track and channel, and `audio_file`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from egs_jax.runtime.errors import MAY_NOT_READ, InputError

if TYPE_CHECKING:
    import av

RATES = (8_000, 192_000)
"""Least and highest rate that is taken for one of sound [Hz]."""
Mix = Callable[["av.AudioFrame"], Float[np.ndarray, "K S"]]
"""Makes signals of a decoded frame's channels."""

_TIME_TOLERANCE = 0.02  # s: half a video frame; Matroska and FLV round their timestamps to 1 ms
_LARGEST_GAP = 3600.0  # s: a longer jump is a broken clock, not a pause
_EXACT_ENDS = {"mov", "wav", "flac", "aiff", "w64"}  # formats whose header knows the duration
_FRONT = dict.fromkeys(("FL", "FR", "FLC", "FRC", "DL", "DR"), 0.5**0.5)
_WEIGHTS = _FRONT | {"FC": 1.0, "LFE": 0.0, "LFE2": 0.0}  # BS.775, three channels and more to one
_OTHER_WEIGHT = 0.5  # sides, backs, heights


def channels_of(frame: "av.AudioFrame") -> Float[np.ndarray, "C S"]:
    """Return the channels of a decoded frame, float32, full scale 1."""
    samples = frame.to_ndarray()  # planar: [channels, n]; packed: [1, n * channels]
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)


def downmix_weights(names: Iterable[str]) -> Float[np.ndarray, " C"]:
    """Return what each channel of a layout counts in mono, by ITU-R BS.775; their sum is 1.

    Args:
      names: ffmpeg's names of the channels ("FL", "FC", "LFE"); unknown ones count alike.
    """
    weights = np.array([_WEIGHTS.get(name, _OTHER_WEIGHT) for name in names])
    if not weights.any():  # nothing but subwoofers
        weights[:] = 1.0
    return weights / weights.sum()


def downmix(frame: "av.AudioFrame") -> Float[np.ndarray, "1 S"]:
    """Return a decoded frame's channels as one."""
    weights = downmix_weights(channel.name for channel in frame.layout.channels)
    return (weights @ channels_of(frame).astype(np.float64))[None].astype(np.float32)


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


def decode(path: Path, track: int, mix: Mix = downmix) -> Iterator[tuple[np.ndarray, int]]:
    """Decode one sound track.

    Args:
      path: The file.
      track: Its place among the file's sound tracks, from 0 on.
      mix: Makes the wanted signals of every frame's channels.

    Yields:
      Signals [K, S], float32, without holes from time 0 of the container on; their rate [Hz].

    Raises:
      InputError: if the file or the track is missing, damaged, cut short or read by no decoder, or
        has a rate out of RATES.
    """
    import av  # noqa: PLC0415 (loads ffmpeg)

    seconds = 0.0
    try:
        with open_media(path) as container:
            sound = _track(container, track, path)
            zero = Fraction(container.start_time or 0, av.time_base)
            for signals, rate in _on_clock(container.decode(sound), mix, zero, path):
                seconds += signals.shape[1] / rate
                yield signals, rate
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
    except av.error.DecoderNotFoundError:
        raise InputError(f"{path}: no decoder reads its sound; convert it to wav first") from None
    except (av.error.FFmpegError, OSError) as error:
        raise _damaged(path, error, seconds) from error


def _track(container: "av.container.InputContainer", track: int, path: Path) -> "av.AudioStream":
    """Return a sound track by its place, or say which there are."""
    tracks = container.streams.audio
    if not tracks:
        raise InputError(f"{path}: has no sound track; give a file with sound")
    if not 0 <= track < len(tracks):
        raise InputError(
            f"{path}: has no sound track {track + 1}, only 1 to {len(tracks)}; name one of them"
        )
    return tracks[track]


def track_layouts(path: Path) -> tuple[list[int], int]:
    """Return how many channels each sound track has, and the place of the one to take first.

    A track that no decoder reads has 0 channels.

    Raises:
      InputError: if the file cannot be read or has no sound track.
    """
    import av  # noqa: PLC0415 (loads ffmpeg)

    try:
        with open_media(path) as container:
            _track(container, 0, path)
            tracks = container.streams.audio
            best = tracks.index(container.streams.best("audio") or tracks[0])
            channels = lambda context: max(context.channels, 1) if context else 0
            return [channels(track.codec_context) for track in tracks], best
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (av.error.FFmpegError, OSError) as error:
        raise _damaged(path, error, 0.0) from error


def _damaged(path: Path, error: Exception, seconds: float) -> InputError:
    where = f"its sound is damaged near {seconds:.1f} s" if seconds else "cannot be read"
    cause = getattr(error, "strerror", None) or type(error).__name__
    return InputError(f"{path}: {where} ({cause}); re-encode it or copy it again")


def _on_clock(
    frames: Iterable["av.AudioFrame"], mix: Mix, start: Fraction, path: Path
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (signals, their rate) of decoded frames, without holes, the first at `start`."""
    position, rate, is_first = 0, 0, True
    for frame in frames:
        signals = mix(frame)
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
                yield np.zeros((len(signals), min(rate, late - begin)), np.float32), rate
            signals = signals[:, max(-late, 0) :]
            position += max(late, 0)
        is_first = False
        position += signals.shape[1]
        yield signals, rate


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
