"""A trained avatar, loaded from its run folder or from a file.

Before: `training.loop` (which writes the checkpoints); after: `draw`, `stream`, `film`.
"""

import contextlib
import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Array, Bool

from egs_jax.avatar.avatar_file import SUFFIX, OlderFormat, Written, read_avatar
from egs_jax.avatar.baked import Baked
from egs_jax.avatar.baking import Trained, bake, weights_of
from egs_jax.avatar.look import USUAL_LOOK, Look
from egs_jax.avatar.poses import PosePath, pose_path
from egs_jax.avatar.precomputed import Drawable, Prepared, spatial_part
from egs_jax.avatar.scene import PersonScene, Scene, scene_of
from egs_jax.avatar.staging import staged
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.model.gaussians import Gaussians
from egs_jax.model.limits import Limits
from egs_jax.runtime.errors import InputError
from egs_jax.training.checkpoint import FOLDER, Checkpoints, newest_step
from egs_jax.training.run_clip import check_same, open_dataset
from egs_jax.training.run_folder import load_config
from egs_jax.training.state import TrainState
from egs_jax.types import Params

KEPT = f"avatar{SUFFIX}"
"""Name of the file in a run folder that `train` writes at its end."""


@dataclass(frozen=True)
class Avatar:
    """A trained head or person, and the clip that lends poses and background."""

    config: Config
    params: Params | None
    """Everything trained; None of a file, and so are the two after it."""
    alive: Bool[Array, " N"] | None
    sh_degree: int | None
    """Degree of spherical harmonics that training had reached: more is not drawn."""
    clip: Dataset | None
    """What it was trained on; None of a file, which opens it when it is asked for."""
    step: int
    """Of training, that it was made after."""
    seen: Gaussians | None = None
    """Mean squares of the loss's gradient by what is trained of the Gaussians; None of a file."""
    look: Look = USUAL_LOOK
    """How it is shown when it speaks; `dataclasses.replace` gives it another one."""
    is_exact: bool = True
    """Whether its networks move every Gaussian (`precomputed`), or codes do (`baked`)."""
    written: Written | None = None
    """What its file holds; None of a run."""
    file: Path | None = None
    """That file."""

    @classmethod
    def of_state(cls, config: Config, state: TrainState, dataset: Dataset) -> "Avatar":
        """Return the avatar that a state of training is, drawn as its last step drew it."""
        step = int(state.step)
        degree = config.sh_degree(max(step - 1, 0))
        seen = state.opt_state["gaussians"].nu
        return cls(config, state.params, state.alive, degree, dataset, step, seen)

    @classmethod
    def load(
        cls, run_or_file: str | Path, data_dir: str | Path | None = None, *,
        exact: bool | None = None,
    ) -> "Avatar":  # fmt: skip
        """Load an avatar that speaks.

        Args:
          run_or_file: A run folder, whose newest checkpoint is taken, or a file that was exported.
          data_dir: Where the dataset lies that it was trained on, if that was moved; a file speaks
            without it.
          exact: Whether its networks move every Gaussian in every frame, as in training, or what
            was baked of them does. None: what was baked, of a whole person; a head's networks. A
            run keeps what was baked at its end in a file; else it is baked here, once it is asked
            for.

        Raises:
          InputError: if it is no run, still in its static stage, or has no file of this version;
            if it is damaged; if its dataset is gone or another one; if a file is to be exact.
          OSError: if the checkpoint cannot be read although nothing says that it is damaged.
        """
        path = Path(run_or_file)
        if path.suffix == SUFFIX or path.is_file():
            return cls._of_file(path, read_avatar(path), data_dir, exact)
        config = load_config(path)
        if not exact and (written := _kept(path, config)) is not None:
            return cls._of_file(path / KEPT, written._replace(config=config), data_dir, exact)
        config, dataset = open_dataset(path, config, data_dir)
        is_exact = not config.model.is_person if exact is None else exact
        return dataclasses.replace(cls._of_run(path, config, dataset), is_exact=is_exact)

    @classmethod
    def _of_run(cls, path: Path, config: Config, dataset: Dataset) -> "Avatar":
        from egs_jax.training.step import abstract_state  # which a file needs nothing of

        if not (path / FOLDER).is_dir():
            raise InputError(f"{path}: no checkpoint yet; train this run first")
        with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:
            state = checkpoints.load(abstract_state(config, dataset.audio_dim))
        if not bool(state.deforming):
            raise InputError(
                f"{path}: its newest checkpoint (step {int(state.step)}) has not learned any "
                f"speech yet, which starts at step {config.schedule.static_steps + 1}; train on"
            )
        return cls.of_state(config, state, dataset)

    @classmethod
    def _of_file(
        cls, path: Path, written: Written, data_dir: str | Path | None, exact: bool | None
    ) -> "Avatar":
        if exact:
            raise InputError(
                f"{path}: holds what was baked of the networks, not these; name the run folder to "
                "draw exactly"
            )
        clip = None if data_dir is None else _clip(path, written, data_dir)
        return cls(written.config, None, None, None, clip, written.step, is_exact=False,
                   written=written, file=path)  # fmt: skip

    @functools.cached_property
    def dataset(self) -> Dataset:
        """What it was trained on.

        Raises:
          InputError: if it is gone, or came from a file and nobody said where that is.
        """
        if self.clip is not None:
            return self.clip
        if self.file is None or self.written is None or not self.config.data_dir:
            raise InputError("an avatar's file has no clip to compare with; name it by --data-dir")
        return _clip(self.file, self.written, self.config.data_dir)

    @property
    def num_gaussians(self) -> int:
        """Gaussians that are drawn."""
        return int(np.sum(self.baked.alive if self.alive is None else self.alive))

    @property
    def kept(self) -> Drawable:
        """What it is drawn from."""
        return self.prepared if self.is_exact else self.baked

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The part of a frame's work that no frame changes, done when it is first asked for."""
        return self.trained.prepared(self.trained.spatial)

    @functools.cached_property
    def baked(self) -> Baked:
        """What draws it by codes, made when it is first asked for."""
        if self.written is not None:
            return self.written.baked
        return bake(self.trained, self.dataset)

    @functools.cached_property
    def trained(self) -> Trained:
        """What training left.

        Raises:
          InputError: if it came from a file.
        """
        if self.params is None or self.alive is None or self.sh_degree is None or self.seen is None:
            raise InputError("an avatar's file has no networks of all Gaussians; name its run")
        spatial = spatial_part(self.config, self.params, self.alive, self.sh_degree)
        networks = self.params["networks"]
        weights = weights_of(self.config, self.seen, self.alive)
        return Trained(self.config, networks, spatial, weights, self.sh_degree, self.limits)

    @property
    def limits(self) -> Limits | None:
        """Those of the poses of the clip's training frames; None: a head has none."""
        own = self.clip_scene.own
        return own.limits if isinstance(own, PersonScene) else None

    @functools.cached_property
    def clip_scene(self) -> Scene:
        """What it takes of its clip to speak."""
        return scene_of(self.dataset) if self.written is None else self.written.scene

    @functools.cached_property
    def scene(self) -> Scene:
        """The same as its look shows it.

        Raises:
          InputError: if it cannot be shown so.
        """
        return staged(self.clip_scene, self.look, lambda: self.dataset)

    @functools.cached_property
    def path(self) -> PosePath:
        """The poses that it takes when it speaks.

        Raises:
          InputError: if it cannot take them.
        """
        return pose_path(self.clip_scene, self.look.poses)


def _clip(file: Path, written: Written, folder: str | Path) -> Dataset:
    """Open the dataset that the avatar of a file was trained on."""
    config = written.config
    found = Dataset.open(folder, config.size, config.model.resolved.body)
    check_same(file, written.clip, found.meta, folder)
    return found


def _kept(run_dir: Path, config: Config) -> Written | None:
    """Return what a run's own file holds.

    None: there is none, or it is of an older format or not of the last step.
    """
    path = run_dir / KEPT
    if not path.is_file():
        return None
    try:
        written = read_avatar(path)
    except OlderFormat:
        return None
    is_last = written.step == newest_step(run_dir)
    return (
        written if is_last and written.config == dataclasses.replace(config, data_dir="") else None
    )
