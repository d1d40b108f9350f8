"""A run folder -> one file that speaks anywhere (`avatar_file`).

Before: `avatar`; after: whoever gets the file.
"""

from pathlib import Path

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_file import SUFFIX
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError


def export_run(run_dir: str | Path, out: str | Path, *, data_dir: str | Path | None = None) -> None:
    """Write the avatar of a run to a file, which is there whole or not at all.

    Args:
      run_dir: The run.
      out: NAME.egs; one that is there is replaced.
      data_dir: Where its dataset was moved.

    Raises:
      InputError: if the run cannot be read, it is a head alone, or the file cannot be written.
    """
    run_dir, out = Path(run_dir), Path(out)
    if out.suffix != SUFFIX or out.is_dir():
        raise InputError(f"{out}: name the file to write, say me{SUFFIX}")
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: not a run folder; export what `train` made")
    avatar = Avatar.load(run_dir, data_dir)
    say_device("exporting")
    export(avatar, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, speaks without its dataset. {CONSENT}")


def export(avatar: Avatar, path: str | Path) -> None:
    """Write an avatar to one file; see `Avatar.export`."""
    avatar.export(path)
