"""The first pass over a film: where the face is in every frame, and what tells its shots apart.

It comes before any file is made: the crop, the masks and the tracking all need the landmarks of the
whole film. Nothing but a few numbers and a thumbnail per frame is kept. Positions are in pixels of
the source.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from egs_jax.face.landmarks import Detection, Face, FaceLandmarker
from egs_jax.face.mesh import NUM_LANDMARKS, RIGID_POINTS
from egs_jax.media.clock import FPS
from egs_jax.preprocess.capture_check import CaptureCheck
from egs_jax.preprocess.films import Film
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress

COUNT_EVERY = 25
"""Frames between two counts of the faces in the picture."""
COLOR_EVERY = 5
"""Frames between two looks at the face's colors."""
THUMBNAIL = (64, 36)
"""Columns and rows of the thumbnails."""
_OTHER_SCENE = 30.0  # levels of 255 between two thumbnails, rms: the camera shows something else


@dataclass(frozen=True)
class Faces:
    """The findings of the first pass over one film; T frames."""

    landmarks: Float[np.ndarray, "T 478 3"]
    """Pixels of the source; NaN where there was no face."""
    thumbnails: UInt8[np.ndarray, "T 36 64"]
    """The whole picture's brightness."""
    colors: Float[np.ndarray, "K P 3"]
    """Colors at the face's `RIGID_POINTS` in every `COLOR_EVERY`-th frame; NaN without a face."""
    check: CaptureCheck
    crowd: int
    """Most faces that were in the picture at a time."""

    @property
    def valid(self) -> Bool[np.ndarray, " T"]:
        """Frames in which the face was seen."""
        return np.isfinite(self.landmarks).all(axis=(1, 2))


class _Follower:
    """A follower of one face through a film: the largest, or the one that was asked for."""

    def __init__(self, landmarker: FaceLandmarker, choice: str | int | None):
        self._landmarker, self._choice = landmarker, choice
        self._face: Face | None = None
        self._scene: np.ndarray | None = None
        self.counts: list[int] = []

    def look(self, frame: np.ndarray, thumbnail: np.ndarray, number: int) -> Face | None:
        """Return the face in the next frame, None if it is not there."""
        if self._is_cut(thumbnail):
            self._face = None  # it is anywhere now: chosen anew
        if number % COUNT_EVERY == 0:
            self.counts.append(len(self._landmarker.detect(frame)))
        if self._face is None and self._choice is not None:
            seen = self._chosen(frame)
        else:
            seen = self._landmarker.track(frame, self._face)
        if seen and self._face and max(self.counts) > 1 and not _near(seen, self._face):
            seen = None  # somebody else, while the one we follow is away
        self._face = seen or self._face
        return seen

    def _is_cut(self, thumbnail: np.ndarray) -> bool:
        before, self._scene = self._scene, thumbnail.astype(np.float32)
        return before is not None and _rms(self._scene - before) > _OTHER_SCENE

    def _chosen(self, frame: np.ndarray) -> Face | None:
        """Return the face that was asked for, once there is more than one to choose from."""
        found = sorted(self._landmarker.detect(frame), key=lambda each: each.box[0] + each.box[2])
        number = {"left": 1, "right": len(found)}.get(str(self._choice), self._choice)
        if len(found) < max(2, int(number)):
            return None
        wanted: Detection = found[int(number) - 1]
        face = self._landmarker.landmark_detection(frame, wanted)
        return face if face is not None and _within(face, wanted) else None


def find_faces(
    film: Film, samples: Float[np.ndarray, " S"], landmarker: FaceLandmarker,
    choice: str | int | None = None,
) -> Faces:  # fmt: skip
    """Follow one face through a film.

    Args:
      film: The film.
      samples: Its sound, for the check.
      landmarker: The networks.
      choice: Which of several faces: "left", "right" or its number from the left, 1 the first;
        None: the largest.

    Returns:
      Where it is; in no frame if there is no such face.

    Raises:
      InputError: if the film is damaged or has no picture in this part.
    """
    follower = _Follower(landmarker, choice)
    check = CaptureCheck(film.info.average_fps, film.info.variable_rate)
    check.add_audio(samples)
    found, thumbnails, colors = [], [], []
    nothing = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
    with progress(film.length, "faces", "frame") as bar:
        for i, frame in enumerate(bar.track(film.frames(), task_id=0)):
            thumbnails.append(_thumbnail(frame))
            face = follower.look(frame, thumbnails[-1], i)
            check.add_frame(frame, None if face is None else face.landmarks)
            found.append(nothing if face is None else face.landmarks.astype(np.float32))
            if i % COLOR_EVERY == 0:
                colors.append(_colors(frame, found[-1]))
    if not found:
        raise InputError(
            f"{film.path}: has no picture after {film.start / FPS:.1f} s; lower --start"
        )
    crowd = max(follower.counts)
    faces = Faces(np.stack(found), np.stack(thumbnails), np.stack(colors), check, crowd)
    print(f"{film.path.name}: face found in {int(faces.valid.sum())} of {len(found)} frames")
    _report_crowd(follower.counts, choice)
    return faces


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """Return the picture's brightness, small."""
    small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def _colors(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return the colors [P, 3] at the rigid points of a face; NaN without one."""
    points = landmarks[RIGID_POINTS, :2]
    if not np.isfinite(points).all():
        return np.full((len(points), 3), np.nan, np.float32)
    columns, rows = np.clip(points, 0, np.array(frame.shape[1::-1]) - 1).astype(int).T
    return frame[rows, columns].astype(np.float32)


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


def _near(face: Face, before: Face) -> bool:
    """Tell if a face is less than its own size away from where it was last seen."""
    low, high = before.box[:2], before.box[2:]
    moved = np.linalg.norm((face.box[:2] + face.box[2:] - low - high) / 2)
    return bool(moved < np.max(high - low))


def _within(face: Face, found: Detection) -> bool:
    """Tell if landmarks are those of a detection."""
    apart = np.abs(face.box[:2] + face.box[2:] - found.box[:2] - found.box[2:]).max() / 2
    return bool(apart < np.max(found.box[2:] - found.box[:2]))


def _report_crowd(counts: list[int], choice: str | int | None) -> None:
    """Say so if more than one face was in the picture."""
    crowded = [i for i, count in enumerate(counts) if count > 1]
    if crowded:
        told = (
            "the largest is followed; --face left, right or a number picks another"
            if choice is None
            else f"the one of --face {choice} is followed"
        )
        print(
            f"{max(counts)} faces in the picture (first at {crowded[0] * COUNT_EVERY / FPS:.0f} s, "
            f"{len(crowded)} of {len(counts)} looks); {told}"
        )
