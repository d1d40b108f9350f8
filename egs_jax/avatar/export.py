"""A run folder -> one file that speaks anywhere (`avatar_file`).

Before: `avatar`; after: whoever gets the file.
"""

from pathlib import Path

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_file import SUFFIX, Written, write_avatar
from egs_jax.avatar.baked import Baked
from egs_jax.avatar.baking import sample_of
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError
from egs_jax.training.run_clip import clip_of


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


def export(avatar: Avatar, path: str | Path, baked: Baked | None = None) -> None:
    """Write all that an avatar needs to speak to one file, all of it or nothing.

    Args:
      avatar: It came from a run.
      path: NAME.egs; one that is there is replaced.
      baked: What was baked of it; None: its own.

    Raises:
      InputError: if it is a head alone, came from a file, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: let the name of an avatar's file end in {SUFFIX}")
    trained, live = avatar.trained, avatar.trained.live
    sample = live.at(sample_of(len(live.features)))
    clip = clip_of(avatar.dataset.meta)
    whole = Written(avatar.config, avatar.scene, baked or avatar.baked, clip)
    write_avatar(path, whole, trained.networks, sample, trained.sh_degree)
