"""The pictures of a film in any order, in constant memory."""

import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from egs_jax.media.video_reader import read_frames

Picture = UInt8[np.ndarray, "H Wd 3"]
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


class FilmPictures:
    """A film that repeats itself without end, at a constant rate.

    It is decoded once, no further than it is asked for; its pictures then lie as JPEG in a file
    without a name. Any thread may ask.
    """

    def __init__(self, path: str | Path, fps: float, shape: Callable[[Picture], Picture]):
        """Open the film.

        Args:
          path: The film.
          fps: Pictures a second.
          shape: What is done to every picture before it is kept.

        Raises:
          InputError: if it is no film.
        """
        self._frames, self._shape = read_frames(path, fps), shape
        self._file = tempfile.TemporaryFile()
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[int, int]] = []  # offset and bytes
        self._lock, self._is_whole = threading.Lock(), False

    def __getitem__(self, number: int) -> Picture:
        """Return a picture; that after the last one is the first.

        Raises:
          InputError: if the film is damaged there.
        """
        with self._lock:
            while not self._is_whole and len(self._places) <= number:
                self._read_next()
            offset, size = self._places[number % len(self._places)]
            self._file.seek(offset)
            data = self._file.read(size)
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)

    def _read_next(self) -> None:
        frame = next(self._frames, None)
        if frame is None:
            self._is_whole = True
            return
        _, data = cv2.imencode(".jpg", cv2.cvtColor(self._shape(frame), cv2.COLOR_RGB2BGR), _JPEG)
        offset = sum(self._places[-1]) if self._places else 0
        self._file.seek(offset)
        self._file.write(data.tobytes())
        self._places.append((offset, data.size))
