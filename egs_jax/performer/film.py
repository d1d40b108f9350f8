"""The demo performer: a synthetic person with a synthetic voice, free of anybody's rights.

`perform` plans a clip (sound, mouth, head, eyes, lids) as plain arrays, `draw_frame` draws one
picture of it, `write_performer_video` writes an mp4 that goes through `preprocess` like anybody's
video. Since everything is planned, everything is known: poses, blinks and the projected 468 face
points are the ground truth that tests measure the tracker against.
Conventions: the world is the head (OpenCV axes, see `head.to_world`), the camera moves; frame k
belongs to time k / fps of the sound.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from egs_jax.face.mesh import NUM_MESH_VERTICES
from egs_jax.media.clock import FPS
from egs_jax.media.feeding import write_video
from egs_jax.performer import anatomy, head
from egs_jax.performer.shading import draw_pose
from egs_jax.performer.voice import Speech, synthesize
from egs_jax.runtime.environment import usable_cores
from kernels.checks import typechecked

_FOCAL = 2.1  # focal length over the picture's width: a portrait lens
_DISTANCE = 5.2  # world units from the camera to the head, about 73 cm
_HEIGHT = -0.17  # the head's middle above the optical axis, so that the shoulders show
_PIVOT = np.array([0.0, 0.62, 0.28])  # where the head turns: the neck's upper end, world units
_TORSO_SHARE = 0.4  # of the head's rotation and shift


@dataclass(frozen=True)
class Performance:
    """A planned clip: all that is needed to draw it, and its ground truth.

    Attributes:
      speech: Sound, mouth and phonemes.
      size: Width and height [pixels].
      fps: Frames per second.
      viewmats: World to camera [T, 4, 4], OpenCV axes; the head is the world.
      torso_viewmats: The same for the shoulders, which follow the head by less.
      K: Intrinsics [3, 3] [pixels].
      blink: [T], 1 = shut.
      mouth_opening: [T] in [0, 1].
      rounding: [T] in [0, 1].
      gaze: Eye directions [T, 2] in the head, to the image's right and up [radians].
      brow: How far the brows are raised [T] [cm].
      landmarks: Projected points of the canonical face [T, 468, 3]: x, y [pixels, centers at
        + 0.5] and depth behind the head's middle in the same scale.
    """

    speech: Speech
    size: int
    fps: float
    viewmats: Float[np.ndarray, "T 4 4"]
    torso_viewmats: Float[np.ndarray, "T 4 4"]
    K: Float[np.ndarray, "3 3"]
    blink: Float[np.ndarray, " T"]
    mouth_opening: Float[np.ndarray, " T"]
    rounding: Float[np.ndarray, " T"]
    gaze: Float[np.ndarray, "T 2"]
    brow: Float[np.ndarray, " T"]
    landmarks: Float[np.ndarray, "T 468 3"]

    @property
    def num_frames(self) -> int:
        """T, number of frames."""
        return len(self.blink)

    def expression(self, i: int) -> head.Expression:
        """Return what the face does in frame `i`."""
        return head.Expression(
            blink=float(self.blink[i]),
            opening=float(self.mouth_opening[i]),
            rounding=float(self.rounding[i]),
            gaze=(float(self.gaze[i, 0]), float(self.gaze[i, 1])),
            brow=float(self.brow[i]),
        )


def _drift(times: np.ndarray, slowest: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth wandering [T] in about [-1, 1]: three sines, the slowest of `slowest` Hz."""
    rates = slowest * np.array([1.0, 1.73, 2.91]) * rng.uniform(0.9, 1.1, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * times[:, None] * rates[None] + phases[None])
    return waves @ np.array([0.6, 0.28, 0.12])


def _plan_blinks(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plan lids [T]: a blink every 2 to 5 s, shut in 0.09 s, open again after 0.16 s more."""
    blink = np.zeros(len(times))
    at = rng.uniform(0.5, 1.2)
    while at < times[-1]:
        since = times - at
        closing = anatomy.smoothstep(-0.10, -0.01, since)
        blink = np.maximum(blink, closing * anatomy.smoothstep(0.19, 0.03, since))
        at += rng.uniform(2.0, 5.0)
    return blink


def _plan_gaze(times: np.ndarray, viewmats: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plan gaze [T, 2]: eyes hold the camera while the head turns, with a saccade now and then."""
    centers = -np.einsum("tji,tj->ti", viewmats[:, :3, :3], viewmats[:, :3, 3])  # -R^T t
    eye = head.to_world(anatomy.EYE_CENTERS.mean(axis=0))
    towards = centers - eye[None]
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    gaze = np.stack([np.arcsin(towards[:, 0]), np.arcsin(-towards[:, 1])], axis=1)
    aside = np.zeros_like(gaze)
    at = 0.0
    while at < times[-1]:
        far = rng.uniform() < 0.25  # now and then a look past the camera
        aside[times >= at] = rng.normal(size=2) * ((0.16, 0.05) if far else (0.025, 0.012))
        at += rng.uniform(0.5, 1.0) if far else rng.uniform(0.8, 2.4)
    fps = 1 / (times[1] - times[0])
    return np.clip(gaze + gaussian_filter1d(aside, 0.025 * fps, axis=0), -0.35, 0.35)


def _plan_poses(
    times: np.ndarray, opening: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Plan head and torso cameras [T, 4, 4]; the head also nods a little with its own speech."""
    fps = 1 / (times[1] - times[0])
    nod = gaussian_filter1d(opening, 0.16 * fps)
    pitch = 5.0 * _drift(times, 0.16, rng) + 2.2 * (nod - nod.mean())
    yaw = 12.0 * _drift(times, 0.11, rng)
    roll = 4.0 * _drift(times, 0.13, rng)
    shift = np.stack([scale * _drift(times, 0.09, rng) for scale in (0.05, 0.025, 0.06)], axis=1)
    full = Rotation.from_euler(
        "yxz", np.stack([yaw, pitch, roll], axis=1), degrees=True
    ).as_rotvec()

    def cameras(share: float) -> np.ndarray:
        viewmats = np.tile(np.eye(4), (len(times), 1, 1))
        turn = Rotation.from_rotvec(share * full).as_matrix()
        viewmats[:, :3, :3] = turn
        still = np.array([0.0, _HEIGHT, _DISTANCE]) + _PIVOT
        viewmats[:, :3, 3] = still[None] - turn @ _PIVOT + share * shift
        return viewmats

    return cameras(1.0), cameras(_TORSO_SHARE)


def perform(seconds: float, seed: int, size: int, fps: float = FPS) -> Performance:
    """Plan a clip.

    Args:
      seconds: Length [s], at least 1.
      seed: Chooses words, movements and blinks; equal seeds give equal clips.
      size: Width and height of the pictures [pixels], at least 32.
      fps: Frames per second.

    Returns:
      The plan with its ground truth.

    Raises:
      ValueError: if `seconds` is under 1, `size` under 32 or `fps` not positive.
    """
    if size < 32 or fps <= 0:
        raise ValueError(f"size, fps: expected >= 32 and > 0, got {size} and {fps}; draw it larger")
    speech = synthesize(seconds, seed)
    rng = np.random.default_rng([seed, 1])
    times = np.arange(int(round(seconds * fps))) / fps
    known = np.arange(len(speech.mouth_opening)) / FPS
    opening, rounding = (
        np.interp(times, known, v) for v in (speech.mouth_opening, speech.rounding)
    )
    viewmats, torso_viewmats = _plan_poses(times, opening, rng)
    K = np.array([[_FOCAL * size, 0, size / 2], [0, _FOCAL * size, size / 2], [0, 0, 1]])
    plan = {
        "viewmats": viewmats,
        "torso_viewmats": torso_viewmats,
        "K": K,
        "blink": _plan_blinks(times, rng),
        "mouth_opening": opening,
        "rounding": rounding,
        "gaze": _plan_gaze(times, viewmats, rng),
        "brow": 0.16 * np.clip(_drift(times, 0.3, rng), 0, 1),
    }
    plan = {name: value.astype(np.float32) for name, value in plan.items()}
    empty = np.zeros((len(times), NUM_MESH_VERTICES, 3), np.float32)
    performance = Performance(speech=speech, size=size, fps=float(fps), landmarks=empty, **plan)
    for i in range(performance.num_frames):
        empty[i] = _project_landmarks(performance, i)
    return performance


def _project_landmarks(performance: Performance, i: int) -> np.ndarray:
    """Project the 468 face points of frame `i`: [468, 3] [pixels]."""
    points = head.pose_face(head.build_head(), performance.expression(i))[:NUM_MESH_VERTICES]
    viewmat, K = performance.viewmats[i].astype(np.float64), performance.K.astype(np.float64)
    camera = head.to_world(points) @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = camera @ K.T
    behind = (camera[:, 2:] - viewmat[2, 3]) * K[0, 0] / viewmat[2, 3]
    return np.concatenate([pixels[:, :2] / pixels[:, 2:], behind], axis=1)


@typechecked
def draw_frame(performance: Performance, i: int) -> UInt8[np.ndarray, "H Wd 3"]:
    """Draw frame `i` of `performance`: RGB, `size` pixels square."""
    viewmat, torso, K = (
        array.astype(np.float64)
        for array in (performance.viewmats[i], performance.torso_viewmats[i], performance.K)
    )
    return draw_pose(performance.expression(i), viewmat, torso, K, performance.size)


def _draw_all(performance: Performance) -> Iterator[UInt8[np.ndarray, "H Wd 3"]]:
    """Yield all frames in order, drawn by one thread per core (NumPy lets them run)."""
    workers = usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, performance.num_frames, 4 * workers):
            some = range(start, min(start + 4 * workers, performance.num_frames))
            yield from pool.map(lambda i: draw_frame(performance, i), some)


def write_performer_video(
    path: str | os.PathLike,
    *,
    seconds: float = 20.0,
    seed: int = 0,
    size: int = 256,
    fps: float = FPS,
) -> Performance:
    """Perform, draw and write an mp4 (H.264 and AAC).

    Args:
      path: Where to write the video; its folder must exist.
      seconds: Length [s], at least 1.
      seed: See `perform`.
      size: Width and height [pixels].
      fps: Frames per second.

    Returns:
      The performance that was written.

    Raises:
      InputError: if the folder is missing or cannot be written.
      OSError: if the disk fails.
    """
    performance = perform(seconds, seed, size, fps)
    speech = performance.speech
    write_video(path, _draw_all(performance), fps, speech.samples, speech.sample_rate)
    return performance
