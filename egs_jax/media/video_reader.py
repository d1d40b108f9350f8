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
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter

from egs_jax.media.audio_file import open_media
from egs_jax.media.clock import FPS
from egs_jax.runtime.errors import InputError

PathLike = str | os.PathLike
# Seconds; on a tie the earlier picture wins, also when a container rounds times to milliseconds.
_TIE = 1e-3
_LARGEST_GAP = 30.0  # seconds between two pictures; more is a broken clock, not a slow camera
_TRUNCATION_SLACK = 0.5  # seconds a container's header may claim beyond its last packet
_HDR_TRANSFERS = (16, 18)  # SMPTE 2084 (PQ) and ARIB STD-B67 (HLG)
_PICTURE_FORMATS = ("image2", "tty", "gif")  # opened as videos by the library, never meant so
_UNSPECIFIED = 2  # the decoder's "color matrix not stated"


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video file.

    Attributes:
      path: The file.
      width: Pixels across, upright and with square pixels.
      height: Pixels down, likewise.
      fps: Nominal rate (the container's best guess of the camera's rate).
      average_fps: Pictures divided by duration.
      variable_rate: Whether the gaps between pictures vary by more than a quarter.
      duration: Seconds from time 0 of the clock to the end of the last picture.
      rotation: Degrees clockwise the stored picture is turned for display (0, 90, 180, 270;
        mirrored files count as 0 or 90).
      has_audio: Whether the file has a sound track.
      codec: Name of the video codec.
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
        first = next(_decoded(path, container, stream), None)
        if first is None:
            raise InputError(f"{path}: the video stream holds no pictures; export the video again")
        image = _Converter(stream)(first)
        turned, flip_rows, flip_columns = _display_matrix(first)
        rotation = (
            (90 if flip_columns else 270) if turned else (180 if flip_rows and flip_columns else 0)
        )
        duration = _stream_end(container, stream)
        return VideoInfo(
            path=Path(path),
            width=image.shape[1],
            height=image.shape[0],
            fps=float(stream.guessed_rate or rate),
            average_fps=float(rate),
            variable_rate=_variable_rate(container, stream),
            duration=duration,
            rotation=rotation,
            has_audio=bool(container.streams.audio),
            codec=stream.codec_context.name,
        )


def read_frames(
    path: PathLike, fps: float = FPS, max_seconds: float | None = None
) -> Iterator[np.ndarray]:
    """Give a video's pictures at a constant rate, picked by timestamp.

    Frame k is the picture whose timestamp is nearest to k / fps on the container's clock (see the
    module's head); the earlier one on a tie. Before the first picture the first is held, in gaps
    the nearest. Memory does not grow with the video.

    Args:
      path: The file.
      fps: Rate to give.
      max_seconds: Stop after this many seconds of the clock.

    Returns:
      An iterator of contiguous uint8 [H, W, 3] RGB arrays, each its own memory; round(duration *
      fps) of them.

    Raises:
      InputError: At the call when the file cannot be opened, from the iterator when it is damaged
        further in or cut short.
    """
    with _opened(path):  # complain at the call, not at the first frame
        pass
    limit = None if max_seconds is None else max(1, round(max_seconds * fps))
    return itertools.islice(_resampled(path, float(fps)), limit)


def _resampled(path: PathLike, fps: float) -> Iterator[np.ndarray]:
    with _opened(path) as (container, stream):
        convert = _Converter(stream)
        usual_gap = float(1 / (stream.average_rate or Fraction(FPS)))
        zero = (container.start_time or 0) / av.time_base
        count, held, time, gap = 0, None, 0.0, usual_gap
        for frame in _decoded(path, container, stream):
            now = time + gap if frame.pts is None else float(frame.pts * stream.time_base) - zero
            if held is not None:
                if now - time > _LARGEST_GAP:
                    raise InputError(
                        f"{path}: no picture between {time:.1f} s and {now:.1f} s; "
                        "cut that part out or re-encode the video"
                    )
                while count / fps <= 0.5 * (time + now) + _TIE:
                    yield convert(held)
                    count += 1
            held, time = frame, now
            gap = float(frame.duration * stream.time_base) if frame.duration else usual_gap
        if held is None:
            raise InputError(f"{path}: the video stream holds no pictures; export the video again")
        while count < max(1, round((time + gap) * fps)):
            yield convert(held)
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
    try:
        for packet in container.demux():
            if packet.dts is not None and packet.time_base:
                latest = max(
                    latest, float((packet.dts + (packet.duration or 0)) * packet.time_base) - zero
                )
            if packet.stream.index != stream.index:
                continue
            for frame in packet.decode():
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


class _Converter:
    """A function from decoded pictures to upright, square-pixeled, contiguous 8-bit RGB."""

    def __init__(self, stream: av.VideoStream):
        # One for the whole video: it holds the color tables, which take 1.6 s to build for HDR.
        self._reformatter = VideoReformatter()
        ratio = stream.sample_aspect_ratio
        self._ratio = float(ratio) if ratio else 1.0

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        options = {}
        if frame.color_trc in _HDR_TRANSFERS:
            options = {
                "dst_color_trc": ColorTrc.IEC61966_2_1,
                "dst_color_primaries": ColorPrimaries.BT709,
            }
        elif frame.colorspace == _UNSPECIFIED and frame.height >= 720:
            options = {"src_colorspace": Colorspace.ITU709}  # what players assume for untagged HD
        width = max(1, round(frame.width * self._ratio))
        rgb = self._reformatter.reformat(frame, width=width, format="rgb24", **options)
        turned, flip_rows, flip_columns = _display_matrix(frame)
        image = rgb.to_ndarray()
        image = image.transpose(1, 0, 2) if turned else image
        image = image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        # A copy: the rows of `image` are padded and belong to the decoder.
        return np.array(image, order="C", copy=True)


def _display_matrix(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return (transpose, then flip rows, then flip columns), which set a picture upright."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    # The file says x' = a x + c y, y' = b x + d y (16.16 fixed point).
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5]
    if abs(int(a)) >= abs(int(b)):
        return False, bool(d < 0), bool(a < 0)
    return True, bool(b < 0), bool(c < 0)


def _stream_end(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Return when the video ends on the container's clock, by the headers, in seconds."""
    zero = (container.start_time or 0) / av.time_base
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    # Matroska keeps each stream's length as text: HH:MM:SS.fraction.
    tag = stream.metadata.get("DURATION", "")
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return (container.duration or 0) / av.time_base


def _variable_rate(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Tell if gaps between pictures vary: by the whole index, or by the next 300 packets."""
    if stream.frames and len(stream.index_entries) == stream.frames:
        ticks = [entry.timestamp for entry in stream.index_entries]
    else:
        packets = itertools.islice(container.demux(stream), 300)
        ticks = [packet.pts for packet in packets if packet.pts is not None]
    gaps = np.diff(np.sort(np.asarray(ticks, np.float64))) * float(stream.time_base)
    return bool(gaps.size > 1 and np.ptp(gaps) > 0.25 * np.median(gaps) + 2e-3)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
