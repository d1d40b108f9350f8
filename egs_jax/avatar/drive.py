"""Speech -> what drives every frame of its video: audio windows, blinks, and a path of poses.

Blinks are made up: natural ones do not follow the sound. Everything is a function of (seed, frame),
so a video of any length can be made piece by piece.
"""

import numpy as np

from egs_jax.avatar.poses import PosePath
from egs_jax.avatar.scene import Scene
from egs_jax.speech.features import feature_windows
from egs_jax.types import Drive

BLINK_BLOCK = 100
"""Frames in which exactly one blink falls (4 s at 25 fps: adults blink 12-20 times a minute)."""
BLINK_SHAPE = np.array([0.25, 0.8, 1.0, 0.9, 0.6, 0.3, 0.1], np.float32)
"""One blink at 25 fps: shut in 80 ms, open again in 160 ms."""


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

    def __init__(self, scene: Scene, path: PosePath, rows: np.ndarray, num_frames: int,
                 window_frames: int, seed: int):  # fmt: skip
        self.scene, self.path, self.rows, self.num_frames = scene, path, rows, num_frames
        self.window_frames, self.seed = window_frames, seed

    def frames(self, start: int, stop: int) -> Drive:
        """Return the drive of the frames [start, stop).

        Raises:
          IndexError: if the speech has no such frames.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise IndexError(f"frames {start} to {stop}: this speech has {self.num_frames} frames")
        frames = np.arange(start, stop)
        return compose(self.scene, self.path, self.rows, 0, frames, self.window_frames, self.seed)


def compose(
    scene: Scene, path: PosePath, rows: np.ndarray, first_row: int, frames: np.ndarray,
    window_frames: int, seed: int,
) -> Drive:  # fmt: skip
    """Compose the drive of `frames` (int [B]) from a path and 50 Hz rows of sound features.

    Args:
      scene: Lends camera and background.
      path: Poses of head and body.
      rows: Sound features [R, F] from row `first_row` on.
      first_row: Number of the first of `rows` in the speech, even.
      frames: Video frames of the speech.
      window_frames: Video frames whose sound a frame hears.
      seed: Decides the blinks.
    """
    poses = path.at(frames)
    windows = feature_windows(
        rows, scene.silence, frames, window_frames, first_row, layout=scene.layout
    )
    return Drive(
        audio_windows=windows,
        eyes=blinks(seed, frames),
        viewmats=poses.viewmats,
        Ks=np.broadcast_to(scene.intrinsics, (len(frames), 3, 3)),
        backgrounds=scene.backgrounds(poses.frames),
        bodies=poses.bodies,
    )
