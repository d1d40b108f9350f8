"""A folder in the place of a film: a PNG a frame, and the sound; all of it or nothing."""

import collections
import concurrent.futures
import contextlib
import os
import secrets
import shutil
import struct
import wave
import zlib
from pathlib import Path

import cv2
import numpy as np

from egs_jax.media.video_pixels import Picture, check_frame
from egs_jax.media.video_writer import PathLike, Sound
from egs_jax.runtime.environment import usable_cores
from egs_jax.runtime.errors import InputError

SOUND = "sound.wav"
"""Name of the sound in the folder; pictures are 000000.png and so on."""
_HEADER_END = 33  # bytes of a PNG: signature and its first chunk
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class PictureFolder:
    """A context manager that writes a folder of pictures, which appears when the block ends.

    Args:
      path: Of the folder, which is missing or empty.
      width: Pixels across.
      height: Pixels down.
      channels: 3 (RGB) or 4 (RGBA, straight).
      sample_rate: Samples a second of the sound to come.
      comment: What every picture says of itself.

    Raises:
      InputError: if it has files already, or cannot be made.
      OSError: if the disk is full or fails.
    """

    def __init__(
        self, path: PathLike, width: int, height: int, channels: int, sample_rate: int, comment: str
    ):
        self._path, self._comment = Path(os.path.abspath(path)), comment
        self._size, self._rate = (width, height, channels), sample_rate
        self._pending: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._frames = 0

    def __enter__(self) -> "PictureFolder":
        self._part = self._path.with_name(f".partial-{secrets.token_hex(8)}")
        try:
            if self._path.exists() and any(self._path.iterdir()):
                raise InputError(f"{self._path}: has files already; name another folder")
            self._part.mkdir()
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot write there ({error.strerror or error}); "
                "choose a place in a folder that exists and can be written"
            ) from error
        self._threads = concurrent.futures.ThreadPoolExecutor(usable_cores())
        self._sound = wave.open(str(self._part / SOUND), "wb")  # noqa: SIM115
        self._sound.setparams((1, 2, self._rate, 0, "NONE", ""))
        return self

    def write_frame(self, frame: Picture) -> None:
        """Append one picture; waits only while several are being written."""
        check_frame(frame, *self._size)
        path = self._part / f"{self._frames:06d}.png"
        self._pending.append(self._threads.submit(_write, path, frame.copy(), self._comment))
        self._frames += 1
        if len(self._pending) > 2 * usable_cores():
            self._pending.popleft().result()

    def write_audio(self, samples: Sound) -> None:
        """Append mono sound in [-1, 1] at the folder's sample rate."""
        pcm = np.clip(np.round(np.asarray(samples, np.float64) * 32768), -32768, 32767)
        self._sound.writeframes(pcm.astype("<i2").tobytes())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for picture in self._pending:
                    picture.result()
                self._sound.close()
                os.replace(self._part, self._path)  # also in the place of an empty one
        finally:
            self._threads.shutdown(cancel_futures=True)
            with contextlib.suppress(Exception):
                self._sound.close()
            shutil.rmtree(self._part, ignore_errors=True)


def _write(path: Path, frame: Picture, comment: str) -> None:
    order = cv2.COLOR_RGBA2BGRA if frame.shape[2] == 4 else cv2.COLOR_RGB2BGR
    data = cv2.imencode(".png", cv2.cvtColor(frame, order), _FAST)[1].tobytes()
    text = b"tEXtComment\0" + comment.encode("latin-1", "replace")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    path.write_bytes(data[:_HEADER_END] + chunk + data[_HEADER_END:])
