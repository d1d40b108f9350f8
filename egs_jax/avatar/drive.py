"""Speech -> what drives every frame of its video: audio windows, blinks, and a path of poses.

Blinks are made up: natural ones do not follow the sound. Everything is a function of (seed, frame),
so a video of any length can be made piece by piece. Sound, poses and blinks are known 50 and 25
times a second; what a frame between these times has is interpolated, and the frame itself drawn.
"""

import functools

import numpy as np
from jaxtyping import Float, Float32, Int

from egs_jax.avatar.look import USUAL_BLINKS, USUAL_LOOK, Look
from egs_jax.avatar.poses import PosePath
from egs_jax.avatar.scene import Scene
from egs_jax.media.clock import FPS, places
from egs_jax.speech.frame_windows import row_windows
from egs_jax.speech.layout import FRAME_ROWS
from egs_jax.types import Drive

BLINK_SHAPE = np.array([0.25, 0.8, 1.0, 0.9, 0.6, 0.3, 0.1], np.float32)
"""One blink at 25 fps: shut in 80 ms, open again in 160 ms."""


def blinks(
    seed: int, frames: Int[np.ndarray, " B"], per_minute: float = USUAL_BLINKS
) -> Float32[np.ndarray, " B"]:
    """Draw the blink in [0,1] of each frame, 25 a second: one at a random place of every block.

    A block is as long as blinks are apart on average, and has all of its own.
    """
    values = np.zeros(len(frames), np.float32)
    if per_minute == 0:
        return values
    length = 60 * FPS / per_minute
    blocks = np.floor(frames / length).astype(int).tolist()
    firsts = [_first_of_blink(seed, block, length) for block in blocks]
    place = frames - np.array(firsts, int)
    inside = (place >= 0) & (place < len(BLINK_SHAPE))
    values[inside] = BLINK_SHAPE[place[inside]]
    return values


@functools.lru_cache(maxsize=4096)
def _first_of_blink(seed: int, block: int, length: float) -> int:
    """Return the first frame of the blink in a block; a generator takes long to make."""
    rng = np.random.default_rng([seed, 2, block])
    within = int(rng.integers(0, int(length) - len(BLINK_SHAPE)))
    return int(np.ceil(block * length)) + within


def eyes_of(look: Look, seed: int, frames: Int[np.ndarray, " B"]) -> Float32[np.ndarray, " B"]:
    """Return the blink in [0,1] of frames of a film, at its own rate."""
    whole, share = places(frames, look.fps, FPS)
    before = blinks(seed, whole, look.blinks)
    if not share.any():
        return before
    return before + (blinks(seed, whole + 1, look.blinks) - before) * share


class SpeechDrive:
    """A speech as a drive of every video frame; `frames(start, stop)` gives a piece of it."""

    def __init__(self, scene: Scene, path: PosePath, rows: np.ndarray, num_frames: int,
                 window_frames: int, seed: int, look: Look = USUAL_LOOK):  # fmt: skip
        self.scene, self.path, self.rows, self.num_frames = scene, path, rows, num_frames
        self.window_frames, self.seed, self.look = window_frames, seed, look

    def frames(self, start: int, stop: int) -> Drive:
        """Return the drive of the frames [start, stop).

        Raises:
          IndexError: if the speech has no such frames.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise IndexError(f"frames {start} to {stop}: this speech has {self.num_frames} frames")
        return compose(
            self.scene, self.path, self.rows, 0, np.arange(start, stop), self.window_frames,
            self.seed, self.look,
        )  # fmt: skip


def compose(
    scene: Scene, path: PosePath, rows: np.ndarray, first_row: int, frames: np.ndarray,
    window_frames: int, seed: int, look: Look = USUAL_LOOK,
) -> Drive:  # fmt: skip
    """Compose the drive of `frames` (int [B]) from a path and 50 Hz rows of sound features.

    Args:
      scene: Lends camera and background, as the look shows it.
      path: Poses of head and body.
      rows: Sound features [R, F] from row `first_row` on.
      first_row: Number of the first of `rows` in the speech.
      frames: Frames of the speech's film.
      window_frames: Video frames whose sound a frame hears.
      seed: Decides the blinks.
      look: The film's frame rate, and how often the avatar blinks.
    """
    poses = poses_at(path, look, frames)
    return Drive(
        audio_windows=_windows(scene, rows, first_row, frames, window_frames, look.fps),
        eyes=eyes_of(look, seed, frames),
        viewmats=poses.viewmats,
        Ks=np.broadcast_to(scene.intrinsics, (len(frames), 3, 3)),
        backgrounds=scene.backgrounds(frames, poses.frames),
        bodies=poses.bodies,
    )


def poses_at(path: PosePath, look: Look, frames: Int[np.ndarray, " B"]) -> PosePath:
    """Return the poses of frames of a film, at its own rate."""
    return path.at(*places(frames, look.fps, FPS))


def _windows(
    scene: Scene, rows: np.ndarray, first_row: int, frames: np.ndarray, window_frames: int, fps: int
) -> Float[np.ndarray, "B W 16 F"]:
    """Cut the sound that frames hear, of which each row is what it is between two rows."""
    whole, share = places(frames, fps, FRAME_ROWS * FPS)
    cut = lambda at: row_windows(
        rows, scene.silence, at, window_frames, first_row, layout=scene.layout
    )
    before = cut(whole)
    if not share.any():
        return before
    return before + (cut(whole + 1) - before) * share[:, None, None, None]
