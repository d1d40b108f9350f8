"""A trained avatar -> frames of any speech.

(12) of the data's way. `infer_step` draws a batch of frames; `render_video` streams a whole
speech through it in constant memory: sound in, frames and sound out.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Bool

from egs_jax import model, train
from egs_jax.audio import SAMPLE_RATE, FeatureStream, extract_features
from egs_jax.audio_file import read_audio, stream_audio
from egs_jax.checkpoint import Checkpoints
from egs_jax.config import Config
from egs_jax.dataset import Dataset
from egs_jax.drive import SpeechDrive, compose
from egs_jax.errors import InputError
from egs_jax.run_log import CONSENT, load_config, progress
from egs_jax.types import Drive, Params, RenderOutput
from egs_jax.video import write_video

FPS = 25
MICRO_BATCH = 4
"""Frames drawn at once by `render_video`; every batch is padded to it, so one program runs."""


@dataclass(frozen=True)
class Avatar:
    """A trained head: parameters, and the clip that lends it poses and torso."""

    config: Config
    params: Params
    alive: Bool[Array, " N"]
    dataset: Dataset

    @classmethod
    def load(cls, run_dir: str | Path) -> "Avatar":
        """Load the newest checkpoint of a run.

        Raises:
          InputError: if the folder is not a finished or running training, if that is still in its
        static stage, or its dataset is gone.
        """
        run_dir = Path(run_dir)
        config = load_config(run_dir)
        dataset = Dataset.open(config.data_dir).resized(config.size)
        if not (run_dir / "checkpoints").is_dir():
            raise InputError(f"{run_dir}: no checkpoint yet; train this run first")
        checkpoints = Checkpoints(run_dir, read_only=True)
        state = checkpoints.load(train.abstract_state(config, dataset.audio_dim))
        checkpoints.close()
        if not bool(state.deforming):
            raise InputError(
                f"{run_dir}: its newest checkpoint (step {int(state.step)}) has not learned any "
                f"speech yet, which starts at step {config.schedule.static_steps + 1}; train on"
            )
        return cls(config, state.params, state.alive, dataset)


def infer_step(avatar: Avatar, drive: Drive) -> RenderOutput:
    """Draw the head as `drive` moves it, over its backgrounds (one jitted call per batch size)."""
    return _infer(avatar.config, avatar.params, avatar.alive, drive)


@jax.jit
def _infer(config: Config, params: Params, alive: Bool[Array, " N"], drive: Drive) -> RenderOutput:
    output, _ = model.forward(config, params, alive, drive, "deform")
    return output


def load_drive(audio_path: str | Path, avatar: Avatar) -> SpeechDrive:
    """Read a whole speech and turn it into what drives every frame of its video.

    Raises:
      InputError: if the file cannot be read as sound.
    """
    samples = read_audio(audio_path)
    rows = extract_features(samples, avatar.dataset.meta["audio_features"]["kind"])
    return SpeechDrive(
        avatar.dataset, rows, num_video_frames(len(samples)),
        avatar.config.model.window_frames, avatar.config.seed,
    )  # fmt: skip


def num_video_frames(samples: int) -> int:
    """Video frames that cover `samples` of sound (at least one)."""
    return max(1, -(-samples * FPS // SAMPLE_RATE))


def pad_batch(drive: Drive, size: int) -> Drive:
    """Repeat the last frame until there are `size`, so that one compiled program serves all."""
    extra = size - len(drive.eyes)
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], extra, axis=0)]), drive)


def render_drive(avatar: Avatar, drive: Drive) -> np.ndarray:
    """Render a drive of at most MICRO_BATCH frames, float32 [B,H,W,3]."""
    return np.asarray(infer_step(avatar, pad_batch(drive, MICRO_BATCH)).rgb)[: len(drive.eyes)]


def speak(avatar: Avatar, audio_path: str | Path) -> Iterator[np.ndarray]:
    """Frames (uint8 [H,W,3]) of a speech of any length, as it is read, in constant memory.

    Raises:
      InputError: if the file cannot be read as sound.
    """
    feature_stream = FeatureStream(avatar.dataset.meta["audio_features"]["kind"])
    window = avatar.config.model.window_frames
    rows = np.zeros((0, avatar.dataset.audio_dim), np.float32)
    first_row = frame = samples = 0
    for chunk in itertools.chain(stream_audio(audio_path), [None]):
        if chunk is None:
            rows = np.concatenate([rows, feature_stream.finish()])
            ready = num_video_frames(samples)
        else:
            samples += len(chunk)
            rows = np.concatenate([rows, feature_stream.push(chunk)])
            # Frame i hears rows up to 2 (i + window - 1 - window // 2) + 7 (`feature_windows`).
            ready = (first_row + len(rows) - 6) // 2 - (window - window // 2) + 1
        while frame + MICRO_BATCH <= ready or (chunk is None and frame < ready):
            frames = np.arange(frame, min(frame + MICRO_BATCH, ready))
            drive = compose(avatar.dataset, rows, first_row, frames, window, avatar.config.seed)
            yield from to_uint8(render_drive(avatar, drive))
            frame += len(frames)
        kept = max(2 * (frame - window // 2) - 8, first_row)
        rows, first_row = rows[kept - first_row :], kept


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image in [0,1] -> uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def render_video(run_dir: str | Path, audio_path: str | Path, out_path: str | Path) -> None:
    """Speak `audio_path` with the avatar of `run_dir`: H.264 + AAC into `out_path`, atomically.

    Raises:
      InputError: bad audio, bad run folder, or an output that cannot be written.
    """
    avatar = Avatar.load(run_dir)
    total = num_video_frames(sum(len(chunk) for chunk in stream_audio(audio_path)))
    with progress(total, "render", "frame") as bar:
        frames = bar.track(speak(avatar, audio_path), task_id=0)
        write_video(out_path, frames, FPS, stream_audio(audio_path), SAMPLE_RATE)
    print(f"{out_path}: {total / FPS:.1f} s. {CONSENT}")
