"""Pictures of a clip in one zip file, without loss: WebP for colors, PNG for masks.

A picture is decoded when it is asked for; four minutes at 512 px take about 0.8 GB instead of 4.7.
The zip's own checksums find damage, and any program that opens zip files shows the pictures.
"""

import collections
import concurrent.futures
import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import imageio.v3 as imageio
import numpy as np
from jaxtyping import Bool, UInt8

from egs_jax.runtime.environment import usable_cores
from egs_jax.runtime.errors import MAY_NOT_READ, InputError

Picture = UInt8[np.ndarray, "H Wd 3"] | UInt8[np.ndarray, "H Wd"] | Bool[np.ndarray, "H Wd"]
_WEBP = {"extension": ".webp", "lossless": True, "quality": 20, "method": 1}
"""Smaller files take ten times as long to write: 4.0 bits a pixel for 4.8."""
_PNG = {"extension": ".png"}
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError, cv2.error)
"""What zipfile, zlib and OpenCV raise when they cannot read a file."""


@contextlib.contextmanager
def opening(path: Path) -> Iterator[None]:
    """Say in one line why a file of a dataset cannot be read.

    Raises:
      InputError: in the place of what libraries raise then.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: missing; preprocess the video again") from None
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: damaged ({error}); preprocess the video again") from None


class Pictures(Sequence[Picture]):
    """The pictures of a clip, all of one size and type; those of `PicturesWriter`.

    Attributes:
      shape: (T, H, Wd, 3) of colors, (T, H, Wd) of masks.
      dtype: uint8, or bool of hard masks.
    """

    def __init__(self, path: str | Path):
        """Open the file.

        Raises:
          InputError: if it is missing or damaged.
        """
        self._path = Path(path)
        with opening(self._path):
            self._zip = zipfile.ZipFile(self._path)
            self._names = self._zip.namelist()
        if not self._names:
            raise InputError(f"{path}: has no pictures; preprocess the video again")
        first = self._read(0)
        self.shape, self.dtype = (len(self._names), *first.shape), first.dtype

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Picture:  # type: ignore[override]
        """Decode a picture.

        Raises:
          IndexError: if there is no such picture.
          InputError: if it is damaged.
        """
        picture = self._read(range(len(self))[i])
        if (picture.shape, picture.dtype) != (self.shape[1:], self.dtype):
            got = f"{picture.dtype} {list(picture.shape)}"
            raise InputError(
                f"{self._path}: picture {i} is {got}, the first {self.dtype} "
                f"{list(self.shape[1:])}; preprocess the video again"
            )
        return picture

    def _read(self, i: int) -> Picture:
        name = self._names[i]
        try:
            return _decoded(self._zip.read(name))
        except _DAMAGE as error:
            raise InputError(
                f"{self._path}: picture {i} is damaged ({error}); preprocess the video again"
            ) from None


def _decoded(data: bytes) -> Picture:
    """Decode a picture by OpenCV, which lets other threads run and is twice as fast as Pillow.

    Raises:
      ValueError: if it is none.
    """
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("not a picture")
    if picture.ndim == 3:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    one_bit = data[1:4] == b"PNG" and data[24] == 1
    return picture > 0 if one_bit else picture


class PicturesWriter:
    """Writes pictures one after another; threads encode them, and the bytes are always the same."""

    def __init__(self, path: str | Path):
        """Make the file."""
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._threads = concurrent.futures.ThreadPoolExecutor(usable_cores())
        self._pending: collections.deque[tuple] = collections.deque()
        self._written = 0

    def append(self, picture: Picture) -> None:
        """Add the next picture; waits only when several are being encoded."""
        options = _WEBP if picture.ndim == 3 else _PNG
        encode = self._threads.submit(imageio.imwrite, "<bytes>", picture.copy(), **options)
        self._pending.append((encode, options["extension"]))
        if len(self._pending) > 2 * usable_cores():
            self._write()

    def _write(self) -> None:
        encoded, extension = self._pending.popleft()
        # Without the date of today: a folder made twice has the same bytes.
        entry = zipfile.ZipInfo(f"{self._written:06d}{extension}")
        self._zip.writestr(entry, encoded.result())
        self._written += 1

    def __enter__(self) -> "PicturesWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        """Write what is left and close; after an error only close."""
        try:
            while self._pending and kind is None:
                self._write()
        finally:
            self._threads.shutdown(cancel_futures=True)
            self._zip.close()
