"""The first pass over a video: where the face is in every frame, and whether the clip can be used.

It comes before any file is made: the crop, the masks and the tracking all need the landmarks of the
whole clip. Nothing but a few numbers per frame is kept. Frames are those of `read_frames` at 25 per
second, positions in pixels of the source.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from egs_jax.face.landmarks import Face, FaceLandmarker
from egs_jax.face.mesh import NUM_LANDMARKS
from egs_jax.media.clock import FPS
from egs_jax.media.video_reader import VideoInfo, read_frames
from egs_jax.preprocess.capture_check import CaptureCheck, CaptureReport
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress

MAX_GAP = 10
"""Frames (0.4 s) without a face that are bridged."""
LEAST_FRAMES = 25
COUNT_EVERY = 25
"""Frames between two counts of the faces in the picture."""


@dataclass(frozen=True)
class Faces:
    """The findings of the first pass."""

    landmarks: Float[np.ndarray, "T 478 3"]
    """Pixels of the source; interpolated where there was no face."""
    valid: Bool[np.ndarray, " T"]
    """Frames in which the face was seen."""
    capture: CaptureReport


def find_faces(
    video: Path, info: VideoInfo, samples: Float[np.ndarray, " S"], max_seconds: float | None
) -> Faces:
    """Follow the largest face through the video; print the capture check.

    Args:
      video: The video.
      info: Its `probe`.
      samples: Its sound, for the check.
      max_seconds: Stop after this much; None: the whole video.

    Returns:
      Landmarks of every frame, gaps of up to `MAX_GAP` frames bridged.

    Raises:
      InputError: if there is no face, the clip is too short, or the face is away for too long.
    """
    landmarker, face = FaceLandmarker(), None
    check = CaptureCheck(info.average_fps, info.variable_rate)
    check.add_audio(samples)
    found, counts = [], []
    seconds = min(info.duration, max_seconds or info.duration)
    with progress(max(1, round(seconds * FPS)), "faces", "frame") as bar:
        for frame in bar.track(read_frames(video, FPS, max_seconds), task_id=0):
            if len(found) % COUNT_EVERY == 0:
                counts.append(len(landmarker.detect(frame)))
            seen = landmarker.track(frame, face)
            if seen and face and max(counts) > 1 and not _near(seen, face):
                seen = None  # somebody else, while the one we follow is away
            check.add_frame(frame, None if seen is None else seen.landmarks)
            found.append(np.full((NUM_LANDMARKS, 3), np.nan) if seen is None else seen.landmarks)
            face = seen or face
    landmarks = np.stack(found).astype(np.float32)
    valid = np.isfinite(landmarks).all(axis=(1, 2))
    print(f"face found in {int(valid.sum())} of {len(valid)} frames")
    _report_crowd(counts)
    capture = check.report()
    print(capture.format_table(), end="")
    _check(video, valid)
    return Faces(bridge_gaps(landmarks, valid), valid, capture)


def missing_ranges(valid: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Return the runs [start, stop) of frames without a face."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], valid, [True]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def bridge_gaps(
    landmarks: Float[np.ndarray, "T 478 3"], valid: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, "T 478 3"]:
    """Interpolate landmarks linearly over frames without a face; hold them at the clip's ends."""
    if valid.all():
        return landmarks
    known, flat = np.flatnonzero(valid), landmarks.reshape(len(valid), -1)
    filled = [np.interp(np.arange(len(valid)), known, column[known]) for column in flat.T]
    return np.stack(filled, axis=1).reshape(landmarks.shape).astype(np.float32)


def _near(face: Face, before: Face) -> bool:
    """Tell if a face is less than its own size away from where it was last seen."""
    low, high = before.box[:2], before.box[2:]
    moved = np.linalg.norm((face.box[:2] + face.box[2:] - low - high) / 2)
    return bool(moved < np.max(high - low))


def _report_crowd(counts: list[int]) -> None:
    """Say so if more than one face was in the picture."""
    crowded = [i for i, count in enumerate(counts) if count > 1]
    if crowded:
        print(
            f"{max(counts)} faces in the picture (first at {crowded[0] * COUNT_EVERY / FPS:.0f} s, "
            f"{len(crowded)} of {len(counts)} looks); the largest is followed, cut the others out "
            "if that is the wrong one"
        )


def _check(video: Path, valid: np.ndarray) -> None:
    """Refuse a clip without a face, too short, or with gaps too long to bridge."""
    if not valid.any():
        raise InputError(
            f"{video}: no face in any of {len(valid)} frames; show one face, well lit, that fills "
            "at least a fifth of the picture"
        )
    if len(valid) < LEAST_FRAMES:
        raise InputError(
            f"{video}: {len(valid)} frames at 25 fps, at least {LEAST_FRAMES} are needed; "
            "record 3 to 5 minutes"
        )
    gaps = [gap for gap in missing_ranges(valid) if gap[1] - gap[0] > MAX_GAP]
    if gaps:
        shown = ", ".join(f"{a}-{b - 1}" for a, b in gaps[:5]) + (", ..." if len(gaps) > 5 else "")
        raise InputError(
            f"{video}: no face in frames {shown} (25 a second); cut these parts out, or keep the "
            "face in view (gaps up to 0.4 s are bridged)"
        )
