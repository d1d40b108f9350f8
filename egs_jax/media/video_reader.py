"""Video files in: pictures picked by their timestamps, errors that name file and cause.

Frame k of `read_frames` is the picture nearest to k / fps seconds on the `clock`, on which sound
is read, too. PyAV decodes; no program is started.

Pictures are uint8 [H, W, 3] RGB, contiguous (a decoder pads its rows; the padding is cut away
here), upright (display matrix applied), with square pixels, 8 bits and SDR whatever the file held.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from egs_jax.media.audio_file import open_media
from egs_jax.media.clock import FPS
from egs_jax.media.decoded_pictures import (
    Converter,
    display_matrix,
    has_alpha,
    hdr_curve,
    progressive,
    transparency_decoder,
)
from egs_jax.runtime.errors import InputError

PathLike = str | os.PathLike
# Seconds; on a tie the earlier picture wins, also when a container rounds times to milliseconds.
_TIE = 1e-3
_LARGEST_GAP = 30.0  # seconds between two pictures; more is a broken clock, not a slow camera
_LARGEST_STEP_BACK = 0.5  # likewise, to an earlier time
_TRUNCATION_SLACK = 0.5  # seconds a container's header may claim beyond its last packet
_LOOKED_AT = 5  # pictures by which interlacing is told
_ODD_GAPS = 0.02  # share of gaps unlike the usual one: less are pictures that were dropped
_PACKETS, _REORDERED = 300, 16  # packets that tell the rate; pictures that may be out of order
_PICTURE_FORMATS = ("image2", "tty", "gif")  # opened as videos by the library, never meant so


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video file.

    Attributes:
      path: The file.
      width: Pixels across, upright and with square pixels.
      height: Pixels down, likewise.
      fps: Nominal rate (the container's best guess of the camera's rate).
      average_fps: Pictures divided by duration.
      variable_rate: Whether gaps between pictures differ by more than a quarter, not only a few.
      duration: Seconds from time 0 of the clock to the end of the last picture.
      rotation: Degrees clockwise the stored picture is turned for display (0, 90, 180, 270;
        mirrored files count as 0 or 90).
      has_audio: Whether the file has a sound track.
      codec: Name of the video codec.
      repairs: What is done to its pictures besides turning them to RGB, a line of text each.
    """

    path: Path
    width: int
    height: int
    fps: float
    average_fps: float
    variable_rate: bool
    duration: float
    rotation: int
    has_audio: bool
    codec: str
    repairs: tuple[str, ...] = ()

    def num_frames(self, fps: float = FPS) -> int:
        """Return how many frames `read_frames(path, fps)` gives, by the file's header."""
        return max(1, round(self.duration * fps))


def probe(path: PathLike) -> VideoInfo:
    """Read a video's header and first picture.

    Args:
      path: The file; any container and codec that FFmpeg reads.

    Returns:
      The file's properties.

    Raises:
      InputError: Missing, empty, truncated, damaged, not a video, or without a video stream.
    """
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(FPS)
        some = list(itertools.islice(_decoded(path, container, stream), _LOOKED_AT))
        if not some:
            raise InputError(f"{path}: the video stream holds no pictures; export the video again")
        first = some[0]
        image = Converter(stream)(first)
        turned, flip_rows, flip_columns = display_matrix(first)
        rotation = (
            (90 if flip_columns else 270) if turned else (180 if flip_rows and flip_columns else 0)
        )
        duration = _stream_end(path, container, stream)
        return VideoInfo(
            path=Path(path),
            width=image.shape[1],
            height=image.shape[0],
            fps=float(stream.guessed_rate or rate),
            average_fps=float(rate),
            variable_rate=_variable_rate(path),
            duration=duration,
            rotation=rotation,
            has_audio=bool(container.streams.audio),
            codec=stream.codec_context.name,
            repairs=_repairs(some),
        )


def _repairs(frames: list[av.VideoFrame]) -> tuple[str, ...]:
    """Say what is done to pictures like these."""
    said = []
    if any(frame.interlaced_frame for frame in frames):
        said.append("interlaced; its fields are made whole frames (bwdif)")
    if curve := hdr_curve(frames[0]):
        said.append(f"HDR ({curve}); turned to SDR (BT.709 primaries, sRGB curve, by swscale)")
    if has_alpha(frames[0]):
        said.append("partly transparent; laid on black")
    return tuple(said)


def read_frames(
    path: PathLike, fps: float = FPS, max_seconds: float | None = None, start: int = 0
) -> Iterator[np.ndarray]:
    """Give a video's pictures at a constant rate, picked by timestamp.

    Frame k is the picture whose timestamp is nearest to k / fps on the container's clock (see the
    module's head); the earlier one on a tie. Before the first picture the first is held, in gaps
    the nearest. Memory does not grow with the video.

    Args:
      path: The file.
      fps: Rate to give.
      max_seconds: Stop after this many seconds of the clock.
      start: Number of the first frame to give; those before it are passed over.

    Returns:
      An iterator of contiguous uint8 [H, W, 3] RGB arrays, each its own memory; round(duration *
      fps) of them, less those before `start`.

    Raises:
      InputError: At the call when the file cannot be opened, from the iterator when it is damaged
        further in or cut short.
    """
    with _opened(path):  # complain at the call, not at the first frame
        pass
    limit = None if max_seconds is None else max(1, round(max_seconds * fps))
    return (
        convert(frame)
        for convert, frame in itertools.islice(_resampled(path, float(fps)), start, limit)
    )


def _resampled(path: PathLike, fps: float) -> Iterator[tuple[Converter, av.VideoFrame]]:
    """Yield the pictures of all frames before they are converted, and what converts them."""
    with _opened(path) as (container, stream):
        convert = Converter(stream)
        usual_gap = float(1 / (stream.average_rate or Fraction(FPS)))
        zero = (container.start_time or 0) / av.time_base
        count, held, time, gap = 0, None, 0.0, usual_gap
        for frame in progressive(_decoded(path, container, stream), stream):
            unit = frame.time_base or stream.time_base  # a filter has its own
            now = time + gap if frame.pts is None else float(frame.pts * unit) - zero
            if held is not None:
                if now - time > _LARGEST_GAP:
                    raise InputError(
                        f"{path}: no picture between {time:.1f} s and {now:.1f} s; "
                        "cut that part out or re-encode the video"
                    )
                if now < time - _LARGEST_STEP_BACK:
                    raise InputError(
                        f"{path}: its clock goes back from {time:.1f} s to {now:.1f} s, as where "
                        "files were put one behind the other; re-encode the video"
                    )
                while count / fps <= 0.5 * (time + now) + _TIE:
                    yield convert, held
                    count += 1
            held, time = frame, now
            gap = float(frame.duration * unit) if frame.duration else usual_gap
        if held is None:
            raise InputError(f"{path}: the video stream holds no pictures; export the video again")
        while count < max(1, round((time + gap) * fps)):
            yield convert, held
            count += 1


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file and its video stream, or say in one line why not."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: {'not a file' if path.exists() else 'no such file'}; give the path of a video"
        )
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or export the video again")
    try:
        container = open_media(path)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a video ({_reason(error)}); "
            "it is damaged, cut short or not a video; export or copy it again"
        ) from error
    with container:
        if container.format.name in _PICTURE_FORMATS or container.format.name.endswith("_pipe"):
            raise InputError(
                f"{path}: a picture or text, not a video; give a video file such as .mp4"
            )
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise InputError(
                f"{path}: no video stream in this file (sound only?); give a video with a picture"
            )
        end_of_last = max((entry.pos + entry.size for entry in streams[0].index_entries), default=0)
        if end_of_last > size:
            raise InputError(
                f"{path}: the video is cut short ({size} of at least {end_of_last} bytes); "
                "copy or export it again"
            )
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _decoded(
    path: PathLike, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Decode every picture; a damaged one, or an end before the header's, is an error."""
    zero, latest, shown = (container.start_time or 0) / av.time_base, 0.0, 0.0
    layered = transparency_decoder(stream)
    try:
        for packet in container.demux():
            if packet.dts is not None and packet.time_base:
                latest = max(
                    latest, float((packet.dts + (packet.duration or 0)) * packet.time_base) - zero
                )
            if packet.stream.index != stream.index:
                continue
            for frame in layered.decode(packet) if layered else packet.decode():
                if frame.is_corrupt:
                    raise InputError(
                        f"{path}: damaged near {shown:.1f} s; export or copy the video again"
                    )
                shown = latest if frame.time is None else frame.time - zero
                yield frame
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path}: damaged or cut short near {shown:.1f} s ({_reason(error)}); "
            "export or copy the video again"
        ) from error
    claimed = (container.duration or 0) / av.time_base
    if latest < claimed - _TRUNCATION_SLACK:
        raise InputError(
            f"{path}: cut short, ends at {latest:.1f} s of {claimed:.1f} s; "
            "export or copy the video again"
        )


def _stream_end(
    path: PathLike, container: av.container.InputContainer, stream: av.VideoStream
) -> float:
    """Return when the video ends on the container's clock [s], by the headers where they say it."""
    zero = (container.start_time or 0) / av.time_base
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    # Matroska keeps each stream's length as text: HH:MM:SS.fraction.
    tag = stream.metadata.get("DURATION", "")
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if container.duration:
        return container.duration / av.time_base
    # Written live, a file does not know its length: its packets do.
    with _opened(path) as (live, same):
        ends = [
            (packet.pts + (packet.duration or 0)) * packet.time_base
            for packet in live.demux(same)
            if packet.pts is not None
        ]
    return float(max(ends, default=0)) - zero


def _variable_rate(path: PathLike) -> bool:
    """Tell if gaps between pictures vary: by the whole index, or by the first packets.

    The file is opened anew: what a decoder has taken in would be missing.
    """
    with _opened(path) as (container, stream):
        if stream.frames and len(stream.index_entries) == stream.frames:
            ticks = np.array([entry.timestamp for entry in stream.index_entries], np.float64)
        else:
            packets = itertools.islice(container.demux(stream), _PACKETS)
            times = [(packet.pts, packet.dts) for packet in packets if packet.pts is not None]
            ticks = np.array([pts for pts, _ in times], np.float64)
            # Packets come in the order of decoding: of what is shown after the last one's turn to
            # be decoded, some is still to come.
            turns = [dts for _, dts in times if dts is not None]
            ticks = ticks[ticks <= turns[-1]] if turns else np.sort(ticks)[:-_REORDERED]
        gaps = np.diff(np.sort(ticks)) * float(stream.time_base)
    odd = np.abs(gaps - np.median(gaps)) > 0.25 * np.median(gaps) + 2e-3
    return bool(gaps.size > 1 and odd.mean() > _ODD_GAPS)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
