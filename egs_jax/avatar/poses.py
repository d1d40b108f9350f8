"""Head poses of a film: the clip's own, back and forth, one that stands still, or those of a file.

Wherever a path turns it slows down before and speeds up after, so that nobody ever jerks. A path is
a cycle that is known from the start: frame i of a film of any length has the pose i modulo its
length, whoever draws it and in whatever pieces.
"""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.spatial.transform import Rotation

from egs_jax.avatar.scene import HeadScene, Scene
from egs_jax.data.stretches import nearest_of
from egs_jax.model.limits import Limits
from egs_jax.runtime.errors import MAY_NOT_READ, InputError

EASE = 12
"""Frames over which a path slows down before it turns."""
COLUMNS = ("yaw", "pitch", "roll", "x", "y", "z")
"""Columns of a csv of poses; the last three may be left out."""
_WIDEST = 60.0  # degrees: what lies beyond was meant otherwise


class PosePath(NamedTuple):
    """A cycle of P poses."""

    viewmats: Float32[np.ndarray, "P 4 4"]
    """Head -> camera."""
    bodies: Float32[np.ndarray, "P 4 4"] | None
    """Body -> camera; None of a head alone."""
    frames: Int[np.ndarray, " P"]
    """Frames of the clip, which lend a head alone what is behind it."""

    def at(
        self, frames: Int[np.ndarray, " B"], share: Float[np.ndarray, " B"] | None = None
    ) -> "PosePath":
        """Return the poses of some frames of a film.

        Args:
          frames: Their numbers, at 25 frames a second.
          share: How far on the way to the next of these each is; None: at its time. A head alone
            stays where the frame of the clip has it that is behind it.
        """
        place, after = (number % len(self.viewmats) for number in (frames, frames + 1))
        if share is None or self.bodies is None:
            return PosePath(*(None if part is None else part[place] for part in self))
        heads, bodies = (
            mixed(part[place], part[after], share) for part in (self.viewmats, self.bodies)
        )
        return PosePath(heads, bodies, self.frames[np.where(share < 0.5, place, after)])


class Viewpoint(NamedTuple):
    """By how much who looks goes around the head, as far as `Limits.looked_at` lets them."""

    yaw: float = 0.0
    """To the right of the picture [radians]."""
    pitch: float = 0.0
    """Down [radians]."""


def looked_at(
    limits: Limits | None, heads: Float32[np.ndarray, "B 4 4"],
    bodies: Float32[np.ndarray, "B 4 4"] | None, views: Sequence[Viewpoint],
) -> tuple[Float32[np.ndarray, "B 4 4"], Float32[np.ndarray, "B 4 4"] | None]:  # fmt: skip
    """Return poses of head and body as each is looked at; of a head alone they stay as they are."""
    if limits is None or bodies is None or not any(any(view) for view in views):
        return heads, bodies
    return limits.looked_at(heads, bodies, np.array(views, np.float64))


def pose_path(scene: Scene, poses: str | Path = "clip") -> PosePath:
    """Make the path of a film.

    Args:
      scene: What its clip lends; an avatar of a head alone cannot leave its poses.
      poses: "clip" (those of the longest stretch of training frames without a cut), "still" (the
        calmest training frame's) or a file: NAME.npy with head -> camera transforms [T, 4, 4] of
        25 frames a second, or NAME.csv with a row a frame and a header: yaw, pitch, roll [degrees]
        about the still pose (yaw to the picture's right, pitch up, roll clockwise) and x, y, z
        [head units] (right, down, away).

    Raises:
      InputError: if the file is missing or holds no such poses, or the avatar is a head alone.
    """
    if isinstance(scene.own, HeadScene):
        return _path_over_frames(scene, scene.own, poses)
    if poses == "still":
        still = np.array([scene.still_frame])
        return PosePath(scene.still_viewmat[None], scene.own.still_body[None], still)
    if poses == "clip":
        at = eased_cycle(len(scene.viewmats))
        viewmats, bodies = (between(part, at) for part in (scene.viewmats, scene.own.bodies))
        return PosePath(viewmats, bodies, scene.start + np.rint(at).astype(int))
    path = read_poses(poses, scene.still_viewmat)
    viewmats = between(path, eased_cycle(len(path)))
    twice = np.concatenate([viewmats, viewmats])  # the second round has the first behind it
    bodies = scene.own.body_model.told(twice)[len(viewmats) :]
    return PosePath(viewmats, bodies, np.full(len(viewmats), scene.start))


def _path_over_frames(scene: Scene, head: HeadScene, poses: str | Path) -> PosePath:
    """Return the path of a head alone, which stays where its clip's frames have it."""
    if poses == "still":
        return PosePath(scene.still_viewmat[None], None, np.array([scene.still_frame]))
    if poses != "clip":
        raise InputError(
            f"--poses {poses}: this avatar is a head over its clip's own body, which stands where "
            "it stood; use --poses clip or still, or train with --model.body person"
        )
    # A frame that bridges a moment without a face has no picture to draw a head over.
    stop = scene.start + len(scene.viewmats)
    frames = nearest_of(head.valid, back_and_forth(scene.start, stop))
    return PosePath(head.viewmats[frames], None, frames)


@functools.lru_cache(maxsize=8)
def eased_cycle(length: int) -> Float[np.ndarray, " P"]:
    """Return one cycle from 0 to length - 1 and back, slow where it turns, in frames."""
    if length == 1:
        return np.zeros(1)
    ease = min(EASE, length // 2)
    speed = np.ones(length + ease)
    ramp = (np.arange(ease) + 0.5) / ease
    speed[:ease] = ramp
    speed[-ease:] = ramp[::-1]
    position = np.cumsum(speed) - speed / 2
    there = position / position[-1] * (length - 1)
    return np.concatenate([there, there[::-1]])


def back_and_forth(start: int, stop: int) -> Int[np.ndarray, " P"]:
    """Return one cycle through frames [start, stop) and back with eased turns."""
    return start + np.rint(eased_cycle(stop - start)).astype(int)


def between(
    poses: Float[np.ndarray, "T 4 4"], at: Float[np.ndarray, " P"]
) -> Float32[np.ndarray, "P 4 4"]:
    """Return rigid poses at places between frames: rotations turn evenly, translations shift."""
    before = np.floor(at).astype(int)
    after = np.minimum(before + 1, len(poses) - 1)
    return mixed(poses[before], poses[after], at - before)


def mixed(
    poses: Float[np.ndarray, "B 4 4"],
    others: Float[np.ndarray, "B 4 4"],
    share: Float[np.ndarray, " B"],
) -> Float32[np.ndarray, "B 4 4"]:
    """Return rigid poses on the way to others, the very same ones where `share` of it is 0."""
    made, is_between = np.array(poses, np.float32), share > 0
    if not is_between.any():
        return made
    poses, others = (np.asarray(part[is_between], np.float64) for part in (poses, others))
    share = np.asarray(share[is_between], np.float64)[:, None]
    turns, ends = (Rotation.from_matrix(part[:, :3, :3]) for part in (poses, others))
    steps = (turns.inv() * ends).as_rotvec()
    made[is_between, :3, :3] = (turns * Rotation.from_rotvec(steps * share)).as_matrix()
    made[is_between, :3, 3] = poses[:, :3, 3] * (1 - share) + others[:, :3, 3] * share
    return made


def read_poses(path: str | Path, still: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "T 4 4"]:
    """Read a file of poses (see `pose_path`); `still` is the pose that a csv's rows are about.

    Raises:
      InputError: if it is missing or holds no such poses.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            poses = np.load(path, allow_pickle=False)
        elif path.suffix == ".csv":
            poses = posed_about(np.asarray(still, np.float64), _read_csv(path))
        else:
            raise InputError(f"--poses {path}: expected clip, still, a .npy or a .csv")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; --poses takes clip, still, a .npy or a .csv") from None
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: no poses ({error})") from None
    _check(path, poses)
    return poses


def _read_csv(path: Path) -> Float[np.ndarray, "T 6"]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file, skipinitialspace=True)
    names = tuple(name.strip().lower() for name in header)
    if names not in (COLUMNS[:3], COLUMNS):
        raise ValueError(f"its first line is {','.join(header)[:60]!r}, not {','.join(COLUMNS)}")
    rows = [row for row in rows if row]
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"a row has not {len(names)} numbers")
    numbers = np.array(rows, np.float64).reshape(len(rows), len(names))
    if np.abs(numbers[:, :3]).max(initial=0) > _WIDEST:
        raise ValueError(f"an angle is over {_WIDEST:.0f} degrees")
    return np.pad(numbers, ((0, 0), (0, 6 - len(names))))


def posed_about(
    still: Float[np.ndarray, "4 4"], rows: Float[np.ndarray, "T 6"]
) -> Float[np.ndarray, "T 4 4"]:
    """Turn and shift a still pose by rows of `COLUMNS`; the face looks along -z of its own axes."""
    turned = np.tile(np.eye(4), (len(rows), 1, 1))
    angles = rows[:, :3] * (-1, -1, 1)
    turned[:, :3, :3] = Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()
    poses = still @ turned
    poses[:, :3, 3] += rows[:, 3:]
    return poses


def _check(path: Path, poses: np.ndarray) -> None:
    """Refuse what are no rigid poses in front of a camera."""
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise InputError(f"{path}: got {list(poses.shape)}, expected poses [T, 4, 4]")
    if poses.dtype.kind != "f" or not np.isfinite(poses).all():
        raise InputError(f"{path}: expected finite numbers")
    turns = poses[:, :3, :3]
    rigid = np.abs(turns @ turns.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2)) < 1e-3
    rigid &= np.linalg.det(turns) > 0
    rigid &= np.abs(poses[:, 3] - (0, 0, 0, 1)).max(axis=1) < 1e-6
    if not rigid.all():
        raise InputError(f"{path}: pose {int(np.argmin(rigid))} is not rigid")
    if (poses[:, 2, 3] <= 1).any():
        behind = int(np.argmax(poses[:, 2, 3] <= 1))
        raise InputError(f"{path}: pose {behind} is at the camera or behind it")
