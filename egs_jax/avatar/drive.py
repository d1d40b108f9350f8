"""Speech -> what drives every frame of its video: audio windows, blinks, and the clip's own poses.

Head pose and torso come from the training clip, played back and forth; the turning points are
eased so that the body never jerks. Blinks are made up: natural ones do not follow the sound.
Everything is a function of (seed, frame), so a video of any length can be made piece by piece.
"""

import functools

import numpy as np

from egs_jax.data.dataset import Dataset
from egs_jax.speech.features import feature_windows
from egs_jax.types import Drive

EASE = 12
"""Frames over which the playback of poses slows down before it turns."""
BLINK_BLOCK = 100
"""Frames in which exactly one blink falls (4 s at 25 fps: adults blink 12-20 times a minute)."""
BLINK_SHAPE = np.array([0.25, 0.8, 1.0, 0.9, 0.6, 0.3, 0.1], np.float32)
"""One blink at 25 fps: shut in 80 ms, open again in 160 ms."""


@functools.lru_cache(maxsize=8)
def back_and_forth(start: int, stop: int) -> np.ndarray:
    """Return one cycle through frames [start, stop) and back with eased turns, int [cycle]."""
    length = stop - start
    if length == 1:
        return np.array([start])
    ease = min(EASE, length // 2)
    speed = np.ones(length + ease)
    ramp = (np.arange(ease) + 0.5) / ease
    speed[:ease] = ramp
    speed[-ease:] = ramp[::-1]
    position = np.cumsum(speed) - speed / 2
    there = np.rint(position / position[-1] * (length - 1)).astype(int)
    return start + np.concatenate([there, there[::-1]])


def blinks(seed: int, frames: np.ndarray) -> np.ndarray:
    """Draw the blink in [0,1] of each frame (int [B]): one at a random place of every block."""
    values = np.zeros(len(frames), np.float32)
    for block in np.unique(frames // BLINK_BLOCK):
        rng = np.random.default_rng([seed, 2, int(block)])
        first = block * BLINK_BLOCK + rng.integers(0, BLINK_BLOCK - len(BLINK_SHAPE))
        place = frames - first
        inside = (place >= 0) & (place < len(BLINK_SHAPE))
        values[inside] = BLINK_SHAPE[place[inside]]
    return values


class SpeechDrive:
    """A speech as a drive of every video frame; `frames(start, stop)` gives a piece of it."""

    def __init__(self, dataset: Dataset, rows: np.ndarray, num_frames: int, window_frames: int,
                 seed: int):  # fmt: skip
        self.dataset, self.rows, self.num_frames = dataset, rows, num_frames
        self.window_frames, self.seed = window_frames, seed

    def frames(self, start: int, stop: int) -> Drive:
        """Return the drive of the frames [start, stop).

        Raises:
          IndexError: if the speech has no such frames.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise IndexError(f"frames {start} to {stop}: this speech has {self.num_frames} frames")
        return compose(
            self.dataset, self.rows, 0, np.arange(start, stop), self.window_frames, self.seed
        )


def compose(
    dataset: Dataset, rows: np.ndarray, first_row: int, frames: np.ndarray, window_frames: int,
    seed: int,
) -> Drive:  # fmt: skip
    """Compose the drive of `frames` (int [B]) from the clip and 50 Hz rows of sound features.

    Args:
      dataset: Lends pose and background, back and forth.
      rows: Sound features [R, F] from row `first_row` on.
      first_row: Number of the first of `rows` in the speech, even.
      frames: Video frames of the speech.
      window_frames: Video frames whose sound a frame hears.
      seed: Decides the blinks.
    """
    cycle = back_and_forth(*dataset.splits["train"])
    silence = dataset.arrays["silence_features"]
    windows = feature_windows(rows, silence, frames, window_frames, first_row)
    return dataset.driven_by(windows, blinks(seed, frames), cycle[frames % len(cycle)])
