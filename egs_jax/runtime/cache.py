"""The folder for what is fetched or compiled once: the user's cache, or a temporary one.

A container or a shared machine may have no home, or one that nobody may write to. What lies in a
cache that can only be read is used all the same (`assets`); what is new goes to a temporary folder
then, which one line tells, and the libraries below that keep files in the home follow.
"""

import functools
import os
import stat
import sys
import tempfile
from pathlib import Path

from egs_jax.runtime.errors import InputError

HOMELESS = Path(os.devnull) / "~"
"""Stands for the home of a user whom the system does not know: nothing can be there."""


def cache_folder() -> Path:
    """Return the folder of fetched assets: $XDG_CACHE_HOME/egs_jax, else ~/.cache/egs_jax.

    It need not be there, and perhaps cannot be written: `writable_cache` is for what is new.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _home() / ".cache") / "egs_jax"


def writable_cache() -> Path:
    """Return the cache folder, made if need be, or a temporary one where it cannot be written."""
    wanted = cache_folder()
    folder, why = _choice(wanted)
    if why and wanted not in _told:
        _told.add(wanted)
        print(
            f"egs-jax: {wanted} cannot be written ({why}); networks and compiled programs are kept "
            f"in {folder}; XDG_CACHE_HOME names another place",
            file=sys.stderr,
        )
    return folder


def move_libraries() -> None:
    """Let libraries that keep files in the home keep them in the cache where they cannot.

    Triton and Numba (of librosa) stop where they find no place that they may write to.
    """
    home = _home()
    if home.is_dir() and os.access(home, os.W_OK):
        return
    folder, _ = _choice(cache_folder())
    for name, part in (("TRITON_HOME", "triton"), ("NUMBA_CACHE_DIR", "numba")):
        os.environ.setdefault(name, str(folder / part))


_told: set[Path] = set()
"""Folders that were told to be no good."""


@functools.cache
def _choice(wanted: Path) -> tuple[Path, str | None]:
    """Return the folder to write to, and why it is not the one that is wanted."""
    why = _why_not_writable(wanted)
    return (wanted, None) if why is None else (_temporary(), why)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        return HOMELESS


def _why_not_writable(folder: Path) -> str | None:
    """Say why no file can be made in a folder, which is made if it is missing; None if one can."""
    if HOMELESS in folder.parents:
        return "this user has no home"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _temporary() -> Path:
    """Return this user's own folder among the temporary ones, the same from run to run.

    What lies there is run as programs: a folder that others may write to is not taken.

    Raises:
      InputError: if there is none that can be written.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"egs_jax-{user}"
    except FileNotFoundError:
        raise InputError(
            f"{cache_folder()} cannot be written, nor any temporary folder; name one that can by "
            "TMPDIR, and one to keep by XDG_CACHE_HOME"
        ) from None
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="egs_jax-"))
    others = stat.S_IWGRP | stat.S_IWOTH
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & others
    return folder if own else Path(tempfile.mkdtemp(prefix="egs_jax-"))
