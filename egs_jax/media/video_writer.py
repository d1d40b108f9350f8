"""Write mp4 files with sound: H.264 and AAC, constant memory, all or nothing.

Frame k is shown at k / fps seconds, sample n sounds at n / sample_rate seconds of the same clock.
The encoders run in threads of their own inside ffmpeg; `encoder_process` puts a whole writer into
a process of its own.
"""

import contextlib
import errno
import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from jaxtyping import Float, UInt8

from egs_jax.media.clock import FPS
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import NO_ROOM, make_beside, put_in_place

PathLike = str | os.PathLike
Picture = UInt8[np.ndarray, "H Wd 3"]
Sound = Float[np.ndarray, " S"]
Encoder = Literal["libx264", "h264_nvenc"]
# Name of the constant quality, and what else is set. (x264, a talking head at 450 px on two cores:
# 343 frames a second with "fast", 790 with "veryfast", which needs 17 instead of 18 for the same
# bytes and has 0.9 dB less, 46.8.)
_QUALITY = {
    "libx264": ("crf", ("preset", "veryfast")),
    "h264_nvenc": ("cq", ("preset", "p5"), ("rc", "vbr"), ("b", "0")),
}
_ALIGNED = 64
"""Number of pixels of which a row in memory has a multiple."""
_SOUND_EVERY = 25
"""Pictures between two pieces of sound."""
# Every player and site takes 48 kHz AAC; lower rates are refused by some.
OUTPUT_RATE = 48_000


@functools.cache
def best_encoder(width: int, height: int) -> Encoder:
    """Return NVIDIA's encoder if this machine can open it for pictures of this size, else x264.

    Cards for data centers (A100, H100, H200) have none.
    """
    try:
        context = av.CodecContext.create("h264_nvenc", "w")
        context.width, context.height = width + width % 2, height + height % 2
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, FPS)
        context.open()
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError, OSError):
        return "libx264"
    return "h264_nvenc"


class VideoWriter:
    """A context manager that writes an mp4 (H.264 yuv420p, AAC) that plays everywhere.

    The file appears under its name only when the block ends without an error; until then it lies
    beside it under a temporary name, which is removed on any error. Memory stays constant if
    pictures and sound come about alternately (`feed` does that).

    Args:
      path: Where to write; its folder must exist.
      width: Pixels across; an odd size is made even by repeating the last column.
      height: Pixels down, likewise.
      fps: Pictures a second.
      sample_rate: Samples a second of the sound to come, None for a silent film.
      crf: Constant quality, 0 (x264: lossless) to 51.
      encoder: "libx264" or "h264_nvenc" (NVIDIA's, where the card has it); None picks.
      temporary: From `temporary_beside`, if somebody else made it.

    Raises:
      InputError: if the folder is missing or cannot be written.
      OSError: if the disk is full or fails (one line, with the system's number and the file's
        name), or the encoder asked for cannot run.
    """

    def __init__(
        self,
        path: PathLike,
        width: int,
        height: int,
        fps: float = FPS,
        sample_rate: int | None = None,
        crf: int = 17,
        encoder: Encoder | None = None,
        temporary: str | None = None,
    ):
        self._encoder = encoder or best_encoder(width, height)
        self._path, self._temporary = Path(os.path.abspath(path)), temporary
        self._size, self._fps, self._rate, self._crf = (
            (width, height),
            Fraction(fps).limit_denominator(1001),
            sample_rate,
            crf,
        )
        self._frames = self._samples = 0
        self._reformatter = VideoReformatter()

    def __enter__(self) -> "VideoWriter":
        self._temporary = self._temporary or temporary_beside(self._path)
        try:
            with self._named_errors():
                self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def _open(self) -> None:
        self._container = av.open(
            self._temporary, "w", format="mp4", options={"movflags": "+faststart"}
        )
        quality, *options = _QUALITY[self._encoder]
        video = self._container.add_stream(
            self._encoder, rate=self._fps, options={quality: str(self._crf)} | dict(options)
        )
        video.thread_type = "AUTO"  # whole frames side by side, where slices are the default
        video.width, video.height = (size + size % 2 for size in self._size)
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._video, self._audio = video, None
        if self._rate is not None:
            self._audio = self._container.add_stream("aac", rate=OUTPUT_RATE, layout="mono")
            self._audio.bit_rate = 128_000
            self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=OUTPUT_RATE)

    def write_frame(self, frame: Picture) -> None:
        """Append one RGB picture of the film's size."""
        width, height = self._size
        check_frame(frame, width, height)
        # Rows of whole cache lines are converted faster. `from_ndarray` would copy them one by one
        # under Python's lock (0.5 ms a picture of 450 rows).
        even = height + height % 2, width + width % 2
        rows = np.empty((even[0], -(-width // _ALIGNED) * _ALIGNED, 3), np.uint8)
        rows[:height, :width] = frame
        if width % 2:
            rows[:height, width] = frame[:, -1]
        if height % 2:
            rows[height] = rows[height - 1]
        picture = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(rows, "rgb24", even[1]),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        picture.pts, picture.time_base = self._frames, 1 / self._fps
        self._frames += 1
        with self._named_errors():
            self._container.mux(self._video.encode(picture))

    def write_audio(self, samples: Sound) -> None:
        """Append mono sound in [-1, 1] at the writer's sample rate."""
        if self._audio is None:
            raise ValueError(
                "write_audio: got sound, expected none; give sample_rate to VideoWriter"
            )
        samples = np.ascontiguousarray(np.clip(samples, -1.0, 1.0), np.float32)
        if samples.size == 0:
            return
        chunk = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="fltp", layout="mono")
        chunk.sample_rate, chunk.pts, chunk.time_base = (
            self._rate,
            self._samples,
            Fraction(1, self._rate),
        )
        self._samples += samples.size
        with self._named_errors():
            self._encode_audio(self._resampler.resample(chunk))

    def _encode_audio(self, chunks: Iterable[av.AudioFrame | None]) -> None:
        for chunk in chunks:
            self._container.mux(self._audio.encode(chunk))

    def _finish(self) -> None:
        if not self._frames:
            raise ValueError(
                "VideoWriter: got no frame, expected at least one; write one before leaving"
            )
        with self._named_errors():
            self._container.mux(self._video.encode(None))
            if self._audio is not None:
                rest = self._resampler.resample(None) if self._samples else []
                self._encode_audio([*rest, None])
            self._container.close()
            put_in_place(Path(self._temporary), self._path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _discard(self) -> None:
        """Close and remove what is left under the temporary name (nothing after a success)."""
        with contextlib.suppress(Exception):
            self._container.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Say in one line which file could not be written and why."""
        try:
            yield
        except (OSError, av.error.FFmpegError) as error:  # not all of ffmpeg's are the system's
            is_systems = isinstance(error, OSError) and error.errno and error.errno > 0
            number = error.errno if is_systems else errno.EIO
            cause = os.strerror(number) if is_systems else error.strerror or type(error).__name__
            hint = "; free some space" if number in NO_ROOM else ""
            raise OSError(
                number, f"cannot write the video: {cause}{hint}", str(self._path)
            ) from error


def temporary_beside(path: Path) -> str:
    """Make an empty file in the folder of a film, to be written first, and return its name.

    Raises:
      InputError: if the folder is missing or cannot be written.
    """
    try:
        return str(make_beside(path))
    except OSError as error:
        raise InputError(
            f"{path}: cannot write there ({error.strerror or error}); "
            "choose a folder that exists and can be written"
        ) from error


def check_frame(frame: np.ndarray, width: int, height: int) -> None:
    """Refuse anything but a picture of this size.

    Raises:
      ValueError: if `frame` is not uint8 [height, width, 3].
    """
    if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
        raise ValueError(
            f"frame: got {frame.dtype} {frame.shape}, expected uint8 {(height, width, 3)}; "
            "convert it first"
        )


def write_video(
    path: PathLike,
    frames: Iterable[Picture],
    fps: float = FPS,
    audio: Sound | Iterable[Sound] | None = None,
    sample_rate: int | None = None,
    crf: int = 17,
) -> int:
    """Write pictures and sound as an mp4, interleaved, in constant memory, all or nothing.

    The film lasts as long as its pictures: sound beyond them is dropped, missing sound is silence.

    Args:
      path: Where to write.
      frames: RGB pictures, all of one size.
      fps: Pictures a second.
      audio: Mono samples in [-1, 1], or an iterable of such chunks, or None.
      sample_rate: Samples a second of `audio`.
      crf: Constant quality.

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
    with VideoWriter(path, width, height, fps, sample_rate, crf) as writer:
        return feed(writer, itertools.chain([first], iterator), fps, audio, sample_rate)


class Writer(Protocol):
    """Anything that takes a film's pictures and sound: `VideoWriter`, `EncoderProcess`."""

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
