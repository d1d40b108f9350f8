"""A run folder -> one file that speaks anywhere (`avatar_file`), or a cloud that viewers open.

Before: `avatar`; after: whoever gets the file.
"""

import shutil
from pathlib import Path

from egs_jax.avatar.avatar import KEPT, Avatar
from egs_jax.avatar.avatar_file import SUFFIX, Written
from egs_jax.avatar.avatar_writer import write_avatar
from egs_jax.avatar.baked import Baked
from egs_jax.avatar.baking import sample_of
from egs_jax.avatar.point_cloud import CLOUD_SUFFIX, at_rest, spoken, write_cloud
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically
from egs_jax.training.run_clip import clip_of
from egs_jax.training.run_folder import load_config


def export_avatar(
    run_or_file: str | Path, out: str | Path, *, data_dir: str | Path | None = None,
    audio: str | Path | None = None, at: float | None = None,
) -> None:  # fmt: skip
    """Write an avatar to a file, which is there whole or not at all.

    Args:
      run_or_file: The avatar.
      out: NAME.egs, which speaks, or NAME.ply, its Gaussians; one that is there is replaced.
      data_dir: Where its dataset was moved.
      audio: A speech, of which NAME.ply is one moment; None: it is silent and at rest.
      at: That moment [s].

    Raises:
      InputError: if the avatar or the speech cannot be read, it is a head alone and to speak, or
        the file cannot be written.
    """
    out = Path(out)
    if out.suffix not in (SUFFIX, CLOUD_SUFFIX) or out.is_dir():
        raise InputError(f"{out}: name the file to write, say me{SUFFIX} or me{CLOUD_SUFFIX}")
    if (audio is None) != (at is None) or (at is not None and out.suffix != CLOUD_SUFFIX):
        raise InputError(
            f"{out}: a moment of a speech is written to a {CLOUD_SUFFIX} file, and named by both "
            "--audio FILE and --at SECONDS"
        )
    avatar = Avatar.load(run_or_file, data_dir)
    if avatar.file is not None and avatar.file.resolve() == out.resolve():
        raise InputError(f"{out}: is the avatar itself; name another file")
    say_device("exporting")
    if out.suffix == CLOUD_SUFFIX:
        drive = at_rest(avatar) if audio is None or at is None else spoken(avatar, audio, at)
        write_cloud(avatar, drive, out)
        print(f"{out}: {avatar.num_gaussians:,} Gaussians. {CONSENT}")
        return
    export(avatar, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, speaks without its dataset. {CONSENT}")


def keep(run_dir: str | Path) -> None:
    """Write the file of a trained run into its folder, if it is a whole person and none is there.

    A run that was to have a static stage alone speaks nothing, and gets none.

    Raises:
      InputError: if the run cannot be read.
    """
    if not load_config(Path(run_dir)).schedule.deform_steps:
        return
    avatar, path = Avatar.load(run_dir), Path(run_dir) / KEPT
    if avatar.is_exact or avatar.file is not None:
        return
    export(avatar, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, speaks without its dataset")


def export(avatar: Avatar, path: str | Path, baked: Baked | None = None) -> None:
    """Write all that an avatar needs to speak to one file, all of it or nothing.

    Args:
      avatar: Of a run; of a file, it is copied.
      path: NAME.egs; one that is there is replaced.
      baked: What was baked of it; None: its own.

    Raises:
      InputError: if it is a head alone, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: let the name of an avatar's file end in {SUFFIX}")
    if avatar.file is not None:
        _copy(avatar.file, path)
        return
    trained, live = avatar.trained, avatar.trained.live
    sample = live.at(sample_of(len(live.features)))
    clip = clip_of(avatar.dataset.meta)
    whole = Written(avatar.config, avatar.clip_scene, baked or avatar.baked, clip, avatar.step)
    write_avatar(path, whole, trained.networks, sample, trained.sh_degree)


def _copy(source: Path, path: Path) -> None:
    try:
        with atomically(path) as part:
            shutil.copyfile(source, part)
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error}); name another place") from None
