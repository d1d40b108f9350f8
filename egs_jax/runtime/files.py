"""Files that a crash leaves whole, and what to say of a disk that takes no more."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's numbers for a full disk, a full quota, and a file larger than files may be."""


def needs_room(error: OSError) -> bool:
    """Tell whether making room would mend an error."""
    # NumPy keeps the number of a write that was cut short to itself.
    was_cut_short = error.errno is None and "requested and" in str(error)
    return was_cut_short or error.errno in NO_ROOM


def make_beside(path: Path) -> Path:
    """Make an empty file in the folder of `path`, with the rights of any new file (umask).

    Raises:
      OSError: if the folder is missing or cannot be written.
    """
    part = path.with_name(f".partial-{secrets.token_hex(8)}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return part


def put_in_place(part: Path, path: Path) -> None:
    """Replace `path` by a file beside it, once that is on the disk: all of it or nothing."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Give an empty file beside `path` to be written, which takes its place when the block ends.

    A crash leaves the old or the new file, never half; after an error only the old one is there.
    """
    part = make_beside(path)
    try:
        yield part
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, see `atomically`.

    What cannot be said in it (of names in another encoding) stands as escapes.
    """
    with atomically(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
