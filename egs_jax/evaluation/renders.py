"""Renders of the clip's own frames, as spoken or under other sound, and how fast they are drawn.

What comes from the very frame that is asked for, a held-out one too, beside the sound, is `given`:
its head pose, how far its eyes are open, and, where the avatar is a head alone, the picture behind
it. Learned from the training frames are the person, how they look from there, what the sound makes
of the mouth, and where the body stands when the head has come this way.
"""

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step, pad_batch
from egs_jax.avatar.stream import MICRO_BATCH, MicroBatch, dispatch, fetch
from egs_jax.data.dataset import Dataset


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
    for at in range(0, len(frames), MICRO_BATCH):
        part = slice(at, at + MICRO_BATCH)
        drive = data.drive(frames[part], window_frames, told=told)
        if heard is not None:
            windows = heard[part]
            if windows.ndim == 1:
                windows = data.audio_windows(windows, window_frames)
            drive = drive.replace(audio_windows=windows)
        drawn = infer_step(avatar, pad_batch(drive, MICRO_BATCH)).rgb
        yield from np.asarray(drawn)[: len(drive.eyes)]


def frames_per_second(avatar: Avatar, frames: Int[np.ndarray, " T"], repeats: int = 5) -> float:
    """Time a stream whose sound features are given, until the pictures are on the host; median."""
    drawn = frames[np.arange(MICRO_BATCH) % len(frames)]
    batch = MicroBatch(drawn, 0, avatar.dataset.drive(drawn, avatar.config.model.window_frames))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        list(fetch(dispatch(avatar, batch)))
        times.append(time.perf_counter() - began)
    return MICRO_BATCH / float(np.median(times))
