"""A `VideoWriter` in a process of its own, beside the one that draws.

Python's lock lets one thread at a time go on: in one process, threads that draw and threads that
encode mostly wait for it (measured on 16 cores: drawing takes 0.65 ms a frame, encoding 1.0, both
together 1.9).

Frames go through memory that both processes share, SLOTS of them in turn; all else goes through a
connection of `multiprocessing`. The encoder gets the `VideoWriter`'s arguments, then pieces: None
for a frame (it lies in the next slot), an array for sound, "end" for the end. It answers None for
every frame taken out of its slot, and at last a number and a line of text: 0, or what went wrong.
Whoever draws may die at any time: without the end there is no film.

(`multiprocessing.Process` would import the user's own script a second time, or fork a process that
has JAX's threads; so the process is started by name.)
"""

import contextlib
import errno
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from egs_jax.media.clock import FPS
from egs_jax.media.content_credentials import Credentials
from egs_jax.media.film_format import FilmFormat, film_format
from egs_jax.media.video_pixels import Picture, check_frame
from egs_jax.media.video_writer import Sound, VideoWriter, temporary_beside

SLOTS = 8
"""Number of frames that may lie between the two processes."""


class EncoderProcess:
    """A `VideoWriter` for one film, in another process.

    Args:
      path, width, height, fps, sample_rate, form, comment, signed_with: See `VideoWriter`.

    Raises:
      InputError: if the folder is missing or cannot be written.
      OSError: with the next frame or at the end, if the `VideoWriter` raises one, or its process
        was killed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        fps: float = FPS,
        sample_rate: int | None = None,
        form: FilmFormat | None = None,
        comment: str = "",
        signed_with: Credentials | None = None,
    ):
        form = form or film_format(".mp4", width, height)
        self._size, self._path, self._frames = (width, height), Path(os.path.abspath(path)), 0
        self._channels = form.channels
        self._settings = dict(path=self._path, width=width, height=height, fps=fps,
                              sample_rate=sample_rate, form=form, comment=comment,
                              signed_with=signed_with)  # fmt: skip

    def __enter__(self) -> "EncoderProcess":
        # Made here, so that a folder that cannot be written is known at once, and so that it can be
        # removed if the other process is killed.
        self._settings["temporary"] = temporary_beside(self._path)
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove_temporary)
            self._connection, theirs = Pipe()
            with theirs, _shared_file() as file:
                self._slots = _slots(file.fileno(), *self._size, self._channels)
                shared = [file.fileno(), theirs.fileno()]
                command = [sys.executable, "-m", __name__, *map(str, shared)]
                # In a group of its own: Ctrl-C and a terminal that closes are for who draws.
                self._process = subprocess.Popen(command, pass_fds=shared, process_group=0)
            undo.callback(self._process.wait)
            undo.callback(self._connection.close)  # without an end before it: no film
            self._send(self._settings)
            self._undo = undo.pop_all()
        return self

    def _remove_temporary(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # as it is unless the encoder was killed
            os.unlink(self._settings["temporary"])

    def write_frame(self, frame: Picture) -> None:
        """Append one picture of the film's size, RGB or, of a transparent film, RGBA."""
        check_frame(frame, *self._size, self._channels)
        if self._frames >= SLOTS and (answer := self._receive()) is not None:
            self._finish(answer)
        self._slots[self._frames % SLOTS] = frame
        self._frames += 1
        self._send(None)

    def write_audio(self, samples: Sound) -> None:
        """Append mono sound in [-1, 1] at the writer's sample rate."""
        self._send(np.asarray(samples, np.float32))

    def _send(self, piece: Any) -> None:
        try:
            self._connection.send(piece)
        except ConnectionError:
            self._finish()

    def _receive(self) -> tuple[int, str] | None:
        """Return the encoder's next answer; one that was killed gives none."""
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            return errno.EPIPE, ""

    def _finish(self, answer: tuple[int, str] | None = None) -> None:
        """Wait for the encoder's last answer; raise what went wrong there."""
        while answer is None:
            answer = self._receive()
        number, text = answer
        if number == 0:
            return
        code = self._process.wait()
        killed = (
            f"the process that encodes was killed (signal {-code}), maybe for want of memory; "
            "run this again"
        )
        text = text or (killed if code < 0 else f"the process that encodes ended early ({code})")
        raise OSError(number, text, str(self._path))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._undo:
            if kind is None:
                self._send("end")
                self._finish()


def _shared_file() -> BinaryIO:
    """Return a file without a name, in memory where the system can (Linux)."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("frames"), "r+b")
    return tempfile.TemporaryFile()


def _slots(
    descriptor: int, width: int, height: int, channels: int
) -> UInt8[np.ndarray, "slots H Wd C"]:
    """Return the frames that a file holds, shared with whoever opens it."""
    shape = (SLOTS, height, width, channels)
    os.truncate(descriptor, math.prod(shape))
    return np.frombuffer(mmap.mmap(descriptor, math.prod(shape)), np.uint8).reshape(shape)


def _encode(connection: Connection, shared: int) -> None:
    """Write the film whose pieces come through the connection."""
    settings = connection.recv()
    channels = settings["form"].channels
    slots, count = _slots(shared, settings["width"], settings["height"], channels), 0
    with VideoWriter(**settings) as writer:
        while not isinstance(piece := connection.recv(), str):
            if piece is None:
                writer.write_frame(slots[count % SLOTS])  # which copies it
                count += 1
                connection.send(None)
            else:
                writer.write_audio(piece)


def main() -> int:
    """Be the process that encodes."""
    # Where all processes of a service are stopped, whoever draws is too, and closes the connection.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    shared, connected = map(int, sys.argv[1:])
    with Connection(connected) as connection:
        answer = 0, ""
        try:
            _encode(connection, shared)
        except (EOFError, ConnectionError):  # whoever draws has given up and says why
            return 1
        except OSError as error:
            answer = error.errno or errno.EIO, error.strerror or str(error)
        with contextlib.suppress(ConnectionError):
            connection.send(answer)
    return bool(answer[0])


if __name__ == "__main__":
    sys.exit(main())
