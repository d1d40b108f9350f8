"""A trained avatar, loaded from its run folder.

Before: `training.loop` (which writes the checkpoints); after: `draw`, `stream`, `film`.
"""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Array, Bool

from egs_jax.avatar.poses import PosePath, pose_path
from egs_jax.avatar.precomputed import Prepared, prepare
from egs_jax.avatar.scene import PersonScene, Scene, scene_of
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.model.limits import Limits
from egs_jax.runtime.errors import InputError
from egs_jax.training import step as train
from egs_jax.training.checkpoint import FOLDER, Checkpoints
from egs_jax.training.run_clip import open_dataset
from egs_jax.training.run_folder import load_config
from egs_jax.training.state import TrainState
from egs_jax.types import Params


@dataclass(frozen=True)
class Avatar:
    """A trained head or person: parameters, and the clip that lends poses and background."""

    config: Config
    params: Params
    alive: Bool[Array, " N"]
    sh_degree: int
    """Degree of spherical harmonics that training had reached: more is not drawn."""
    dataset: Dataset
    poses: str | Path = "clip"
    """Its poses when it speaks (`poses.pose_path`)."""

    @classmethod
    def of_state(cls, config: Config, state: TrainState, dataset: Dataset) -> "Avatar":
        """Return the avatar that a state of training is, drawn as its last step drew it."""
        degree = config.sh_degree(max(int(state.step) - 1, 0))
        return cls(config, state.params, state.alive, degree, dataset)

    @classmethod
    def load(cls, run_dir: str | Path, data_dir: str | Path | None = None) -> "Avatar":
        """Load the newest checkpoint of a run, whose dataset may have been moved to `data_dir`.

        Raises:
          InputError: if the folder is not a finished or running training, if that is still in its
            static stage, its checkpoint is damaged, or its dataset is gone or another one.
          OSError: if the checkpoint cannot be read although nothing says that it is damaged.
        """
        run_dir = Path(run_dir)
        config, dataset = open_dataset(run_dir, load_config(run_dir), data_dir)
        if not (run_dir / FOLDER).is_dir():
            raise InputError(f"{run_dir}: no checkpoint yet; train this run first")
        with contextlib.closing(Checkpoints(run_dir, read_only=True)) as checkpoints:
            state = checkpoints.load(train.abstract_state(config, dataset.audio_dim))
        if not bool(state.deforming):
            raise InputError(
                f"{run_dir}: its newest checkpoint (step {int(state.step)}) has not learned any "
                f"speech yet, which starts at step {config.schedule.static_steps + 1}; train on"
            )
        return cls.of_state(config, state, dataset)

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The part of a frame's work that no frame changes, done when it is first asked for."""
        return prepare(self.config, self.params, self.alive, self.sh_degree, self.limits)

    @property
    def limits(self) -> Limits | None:
        """Those of the poses of the clip's training frames; None: a head has none."""
        own = self.scene.own
        return own.limits if isinstance(own, PersonScene) else None

    @functools.cached_property
    def scene(self) -> Scene:
        """What it takes of its clip to speak."""
        return scene_of(self.dataset)

    @functools.cached_property
    def path(self) -> PosePath:
        """The poses that it takes when it speaks."""
        return pose_path(self.scene, self.poses)
