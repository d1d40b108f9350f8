"""A trained avatar, loaded from its run folder.

Before: `training.loop` (which writes the checkpoints); after: `draw`, `stream`, `film`.
"""

import contextlib
import functools
import math
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Array, Bool

from egs_jax.avatar.poses import PosePath, pose_path
from egs_jax.avatar.precomputed import Prepared, prepare
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import read_audio
from egs_jax.model.limits import Limits
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import IMPORTED
from egs_jax.speech.level import SPEECH_LOUDNESS, loudness
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

    @functools.cached_property
    def limits(self) -> Limits | None:
        """Those of the poses of the clip's training frames; None: a head has none."""
        if not self.config.model.is_person:
            return None
        return Limits.of(self.dataset.arrays["viewmats"][self.dataset.train_frames])

    @functools.cached_property
    def path(self) -> PosePath:
        """The poses that it takes when it speaks."""
        return pose_path(self.dataset, self.poses)

    @functools.cached_property
    def loudness(self) -> float:
        """What speech is brought to before it hears it [LUFS]: as loud as it heard training's.

        A dataset that does not say so, as those before loudness was kept, was heard as loud as its
        sound is.
        """
        told = self.dataset.meta["audio_features"].get("loudness")
        if told is not None:
            return float(told)
        sound = self.dataset.folder / "audio.wav"
        found = loudness(read_audio(sound)) if sound.is_file() else -math.inf
        return found if math.isfinite(found) else SPEECH_LOUDNESS

    @property
    def feature_kind(self) -> str:
        """Kind of the sound features it hears (`speech.features`).

        Raises:
          InputError: if another program made them: new sound has none.
        """
        heard = self.dataset.meta["audio_features"]
        if heard["kind"] == IMPORTED:
            raise InputError(
                f"{self.dataset.folder}: its sound features are another program's "
                f"({heard.get('name')}), which cannot be made of new sound here; evaluate this "
                "avatar, or import with --audio-features whisper and train again to let it speak"
            )
        return heard["kind"]
