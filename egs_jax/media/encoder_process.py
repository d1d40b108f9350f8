"""A `VideoWriter` in a process of its own, beside the one that draws.

Python's lock lets one thread at a time go on: in one process, threads that draw and threads that
encode mostly wait for it (measured on 16 cores: drawing takes 0.65 ms a frame, encoding 1.0, both
together 1.9).

Frames go through memory that both share, SLOTS of them in turn. All else goes through pipes. To the
encoder: a line of JSON with the `VideoWriter`'s arguments, then pieces, each with a letter in
front: a frame (F; it lies in the next slot), sound (S, the number of its samples as 4 bytes,
little-endian, and float32 samples), the end (E). Back comes a dot for every frame taken out of its
slot, and at last a line of JSON: {} when the film is there, else what went wrong. Whoever draws may
die at any time: without the end there is no film.
"""

import contextlib
import errno
import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from egs_jax.media.video_writer import VideoWriter, check_frame, temporary_beside

SLOTS = 4
"""Frames that may lie between the two."""


class EncoderProcess:
    """The same as a `VideoWriter`, for one film in another process.

    Args:
        path, width, height, fps, sample_rate, crf: See `VideoWriter`.

    Raises:
        InputError: The folder is missing or cannot be written.
        OSError: What a `VideoWriter` raises, with the next frame or at the end.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        fps: float = 25.0,
        sample_rate: int | None = None,
        crf: int = 17,
    ):
        self._size, self._path = (width, height), Path(os.path.abspath(path))
        self._told = dict(path=str(self._path), width=width, height=height, fps=fps,
                          sample_rate=sample_rate, crf=crf)  # fmt: skip

    def __enter__(self) -> "EncoderProcess":
        # Made here, so that a folder that cannot be written is known at once, and so that it can be
        # removed if the other process is killed.
        self._told["temporary"] = temporary_beside(self._path)
        try:
            self._start()
        except BaseException:
            self._remove_temporary()
            raise
        return self

    def _start(self) -> None:
        with _shared_file() as file:
            self._slots = _slots(file.fileno(), *self._size)
            self._frames = self._taken = 0
            command = [sys.executable, "-m", __name__, str(file.fileno())]
            # In a group of its own: Ctrl-C and a terminal that closes are for who draws.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0,
                pass_fds=[file.fileno()],
            )  # fmt: skip
        self._send(json.dumps(self._told).encode() + b"\n")

    def _remove_temporary(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # as it is unless the encoder was killed
            os.unlink(self._told["temporary"])

    def write_frame(self, frame: np.ndarray) -> None:
        """Append one picture, uint8 [H, W, 3] RGB."""
        check_frame(frame, *self._size)
        while self._frames - self._taken == SLOTS:
            said = os.read(self._process.stdout.fileno(), SLOTS)
            if not said or said.strip(b"."):  # it ended, or its last line begins
                self._learn(said)
            self._taken += len(said)
        self._slots[self._frames % SLOTS] = frame
        self._frames += 1
        self._send(b"F")

    def write_audio(self, samples: np.ndarray) -> None:
        """Append sound, float [n] mono in [-1, 1] at the writer's sample rate."""
        samples = np.ascontiguousarray(samples, "<f4")
        self._send(b"S", len(samples).to_bytes(4, "little"), samples.data)

    def _send(self, *parts: bytes | memoryview) -> None:
        try:
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._learn()

    def _learn(self, said: bytes = b"") -> None:
        """Wait for the encoder's end; raise what went wrong there."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        answer = (said + self._process.stdout.read()).lstrip(b".")
        code = self._process.wait()
        found = json.loads(answer) if answer else {"number": errno.EPIPE}
        if number := found.get("number"):
            text = found.get("text") or (
                f"the process that encodes was killed (signal {-code}), maybe for want of memory; "
                "run this again"
                if code < 0
                else f"the process that encodes ended early (code {code})"
            )
            raise OSError(number, text, str(self._path))

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._send(b"E")
                self._learn()
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # without an end before it: no film
            self._process.wait()
            self._process.stdout.close()
            self._remove_temporary()


def _shared_file() -> BinaryIO:
    """A file without a name, in memory where the system can (Linux)."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("frames"), "r+b")
    return tempfile.TemporaryFile()


def _slots(descriptor: int, width: int, height: int) -> np.ndarray:
    """The frames that a file holds, uint8 [SLOTS, H, W, 3], shared with whoever opens it."""
    shape = (SLOTS, height, width, 3)
    os.truncate(descriptor, math.prod(shape))
    return np.frombuffer(mmap.mmap(descriptor, math.prod(shape)), np.uint8).reshape(shape)


def _receive(source: BinaryIO, shared: int) -> None:
    """Write the film that `source` tells, whose frames lie in a file."""
    told = json.loads(source.readline())
    slots, count = _slots(shared, told["width"], told["height"]), 0
    with VideoWriter(**told) as writer:
        while (letter := source.read(1)) != b"E":
            if letter == b"F":
                writer.write_frame(slots[count % SLOTS])  # which copies it
                count += 1
                _say(b".")
            elif letter == b"S":
                samples = np.empty(int.from_bytes(source.read(4), "little"), "<f4")
                if source.readinto(samples.data.cast("B")) != samples.nbytes:
                    raise EOFError
                writer.write_audio(samples)
            else:
                raise EOFError


def _say(what: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), what)


def main() -> int:
    """Be the process that encodes."""
    # Where all processes of a service are stopped, whoever draws is too, and closes the pipe.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    answer = {}
    try:
        _receive(sys.stdin.buffer, int(sys.argv[1]))
    except EOFError:  # whoever draws has given up and says why
        return 1
    except OSError as error:
        answer = {"number": error.errno or errno.EIO, "text": error.strerror or str(error)}
    _say(json.dumps(answer).encode())
    return bool(answer)


if __name__ == "__main__":
    sys.exit(main())
