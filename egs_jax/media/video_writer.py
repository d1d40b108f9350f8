"""Write films with sound: constant memory, all or nothing.

Frame k is shown at k / fps seconds, sample n sounds at n / sample_rate seconds of the same clock.
The encoders run in threads of their own inside ffmpeg; `encoder_process` puts a whole writer into
a process of its own.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float

from egs_jax.media.clock import FPS
from egs_jax.media.content_credentials import Credentials, sign
from egs_jax.media.film_format import FilmFormat, film_format
from egs_jax.media.video_pixels import Picture, VideoPixels
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import NO_ROOM, make_beside, put_in_place

PathLike = str | os.PathLike
Sound = Float[np.ndarray, " S"]
_SAMPLES = {"aac": "fltp", "libopus": "flt"}
# Every player and site takes 48 kHz AAC; lower rates are refused by some.
OUTPUT_RATE = 48_000


class VideoWriter:
    """A context manager that writes a film.

    The file appears under its name only when the block ends without an error; until then it lies
    beside it under a temporary name, which is removed on any error. Memory stays constant if
    pictures and sound come about alternately (`feed` does that).

    Args:
      path: Where to write; its folder must exist.
      width: Pixels across; an odd size is made even by repeating the last column.
      height: Pixels down, likewise.
      fps: Pictures a second.
      sample_rate: Samples a second of the sound to come, None for a silent film.
      form: What its file is made of; None: H.264 and AAC in mp4, which plays everywhere.
      comment: What the file says of itself.
      signed_with: To sign it with; None: it is not signed.
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
        form: FilmFormat | None = None,
        comment: str = "",
        signed_with: Credentials | None = None,
        temporary: str | None = None,
    ):
        self._form, self._comment = form or film_format(".mp4", width, height), comment
        self._signed_with = signed_with
        self._path, self._temporary = Path(os.path.abspath(path)), temporary
        self._pixels, self._rate = VideoPixels(width, height, self._form), sample_rate
        self._fps = Fraction(fps).limit_denominator(1001)
        self._frames = self._samples = 0

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
        form = self._form
        fast = {} if form.container == "webm" else {"movflags": "+faststart"}
        self._container = av.open(self._temporary, "w", format=form.container, options=fast)
        if self._comment:
            self._container.metadata["comment"] = self._comment
        video = self._container.add_stream(form.video, rate=self._fps, options=dict(form.options))
        video.thread_type = "AUTO"  # whole frames side by side, where slices are the default
        self._pixels.describe(video.codec_context)
        self._video, self._audio = video, None
        if self._rate is not None:
            self._audio = self._container.add_stream(form.sound, rate=OUTPUT_RATE, layout="mono")
            self._audio.bit_rate = 128_000
            samples = _SAMPLES[form.sound]
            self._resampler = av.AudioResampler(format=samples, layout="mono", rate=OUTPUT_RATE)

    def write_frame(self, frame: Picture) -> None:
        """Append one picture of the film's size, RGB or, of a transparent film, RGBA."""
        picture = self._pixels.frame(frame)
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
        if self._signed_with is not None:  # which names its errors itself
            sign(Path(self._temporary), self._form.container, self._signed_with)
        with self._named_errors():
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
