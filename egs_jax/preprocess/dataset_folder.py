"""The folder of a dataset while it is made: it appears under its name only when it is complete.

Whatever ends the work before, an error or a signal, leaves nothing of it and what was there before.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from egs_jax.data.folder import FILES
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import needs_room
from egs_jax.runtime.stopping import undisturbed

NAMES = {"meta.json", "audio.wav", *FILES.values()}
"""All that a dataset may have."""


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for (`needed` bytes)."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder.parent}: the dataset takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            "free; make room, or lower --size or --max-seconds"
        )


def check_target(folder: Path) -> None:
    """Refuse to replace anything that is not a dataset and nothing else."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if names and ("meta.json" not in names or names - NAMES):
            other = min(names - NAMES, default="no meta.json")
            raise InputError(
                f"{folder}: is there already and is not only a dataset ({other}); name another "
                "folder"
            )
    elif folder.exists():
        raise InputError(f"{folder}: is there already and is not a folder; name another")


@contextlib.contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Make a new folder beside `target`, on the same disk; nothing of it is left afterwards.

    Raises:
      InputError: if it cannot be made.
      OSError: if the disk is full or fails meanwhile.
    """
    made: list[Path] = []
    try:
        with undisturbed():
            made.append(_make_work_folder(target))
        yield made[0]
    except OSError as error:
        hint = "; make room" if needs_room(error) else ""
        raise OSError(f"{target}: cannot make the dataset ({error}){hint}") from error
    finally:
        _remove(made)


def _make_work_folder(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{target}: cannot make this folder ({error.strerror}); name another"
        ) from None


def _remove(folders: list[Path]) -> None:
    with undisturbed():
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(made: Path, target: Path) -> None:
    """Put `made` in the place of `target`; no signal comes in between."""
    old = target.with_name(f".{target.name}-old")
    with undisturbed():
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        made.chmod(0o755)
        made.rename(target)
        shutil.rmtree(old, ignore_errors=True)
