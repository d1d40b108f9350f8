"""Renders of the clip's own frames, as spoken or under other sound, and how fast they are drawn.

What comes from the very frame that is asked for, a held-out one too, beside the sound, is `given`:
its head pose, how far its eyes are open, and, where the avatar is a head alone, the picture behind
it. Learned from the training frames are the person, how they look from there, what the sound makes
of the mouth, and where the body stands when the head has come this way.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step, pad_batch
from egs_jax.avatar.drawing import MICRO_BATCH, dispatch, fetch
from egs_jax.avatar.speech_batches import MicroBatch
from egs_jax.data.dataset import Dataset
from egs_jax.types import Drive

T = TypeVar("T")


def given(dataset: Dataset) -> list[str]:
    """Name what a render takes from the very frame that it is compared with, beside the sound."""
    return ["pose", "eyes"] if dataset.body == "person" else ["pose", "eyes", "background"]


def rendered_frames(
    avatar: Avatar,
    frames: Int[np.ndarray, " T"],
    heard: Int[np.ndarray, " T"] | Float[np.ndarray, "T W 16 F"] | None = None,
    *,
    told: bool = True,
) -> Iterator[Float[np.ndarray, "H Wd 3"]]:
    """Yield renders of the clip's own `frames`, by one compiled program.

    Args:
      avatar: The avatar.
      frames: Indices in the clip; what is `given` is that of the frame.
      heard: Frames whose sound is heard instead, or audio windows.
      told: Whether a person's body stands where it is told to; otherwise, where it was seen.
    """
    data, window_frames = avatar.dataset, avatar.config.model.window_frames

    def driven(seen: np.ndarray, sound: np.ndarray | None) -> Drive:
        drive = data.drive(seen, window_frames, told=told)
        if sound is None:
            return drive
        windows = data.audio_windows(sound, window_frames) if sound.ndim == 1 else sound
        return drive.replace(audio_windows=windows)

    drives = (driven(*part) for part in micro_batches((frames, heard)))
    yield from (rgb for rgb, _ in drawn_frames(avatar, drives))


def micro_batches(arrays: T) -> Iterator[T]:
    """Cut a tree of arrays with one row per frame (indices, a `Drive`) for `drawn_frames`."""
    for at in range(0, len(jax.tree.leaves(arrays)[0]), MICRO_BATCH):
        yield jax.tree.map(lambda rows, at=at: rows[at : at + MICRO_BATCH], arrays)


def drawn_frames(
    avatar: Avatar, drives: Iterable[Drive]
) -> Iterator[tuple[Float[np.ndarray, "H Wd 3"], Float[np.ndarray, "H Wd"]]]:
    """Yield color and opacity of every frame, by one compiled program.

    Args:
      avatar: The avatar.
      drives: What `micro_batches` cuts.
    """
    for drive in drives:
        drawn = infer_step(avatar, pad_batch(drive, MICRO_BATCH))
        count = len(drive.eyes)
        yield from zip(np.asarray(drawn.rgb)[:count], np.asarray(drawn.alpha)[:count], strict=True)


def frames_per_second(avatar: Avatar, frames: Int[np.ndarray, " T"], repeats: int = 5) -> float:
    """Time a stream whose sound features are given, until the pictures are on the host; median."""
    drawn = frames[np.arange(MICRO_BATCH) % len(frames)]
    drive = avatar.dataset.drive(drawn, avatar.config.model.window_frames)
    batch = MicroBatch(drawn, 0, np.zeros(MICRO_BATCH, bool), drive)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        list(fetch(dispatch(avatar, batch)))
        times.append(time.perf_counter() - began)
    return MICRO_BATCH / float(np.median(times))
