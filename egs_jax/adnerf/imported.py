"""A dataset of another program -> dataset folder, one command: the form of AD-NeRF and its kin.

What makes the field's tables stays as it is there: the split, the cameras, the masks, the clean
background, the torso behind the head, the lids, and the features of sound where they are asked for.
What those datasets have not is made of their frames as `pipeline` makes it: landmarks, mean face,
body poses, first points. Their frames are neither cropped nor scaled, their poses not refined and
their sound is not moved.

Before: `adnerf_folder`, `adnerf_cameras`, `adnerf_pictures`, `adnerf_signals` read what is there;
`head_placement` brings their world to ours.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float

from egs_jax.adnerf.cameras import Cameras, read_cameras
from egs_jax.adnerf.folder import AdNerfFolder, read_folder
from egs_jax.adnerf.head_placement import place_head
from egs_jax.adnerf.imported_pictures import write_pictures
from egs_jax.adnerf.pictures import read_frame, read_picture
from egs_jax.adnerf.signals import (
    quiet_features,
    read_features,
    read_lids,
    read_sound,
)
from egs_jax.data.folder import FILES, FORMAT_VERSION
from egs_jax.data.pictures import Pictures
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import (
    NUM_LANDMARKS,
    canonical_face_mesh,
    eye_openness,
    mouth_opening,
)
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import FPS
from egs_jax.preprocess.capture_check import CaptureCheck, CaptureReport
from egs_jax.preprocess.dataset_folder import check_room, check_target, replace_folder, work_folder
from egs_jax.preprocess.frame_pass import BYTES_A_PIXEL
from egs_jax.preprocess.masks import lips_rect
from egs_jax.preprocess.pipeline import blink_signal, first_points, followed_body, models_used
from egs_jax.preprocess.shots import MAX_GAP, bridge_gaps, runs_of
from egs_jax.preprocess.track_report import jitter_rms
from egs_jax.preprocess.tracking import HeadTrack, reprojection_rms
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress
from egs_jax.speech.features import (
    AUDIO_FEATURES,
    IMPORTED,
    extract_features,
    silence_features,
)
from egs_jax.speech.layout import DEFAULT, layout_of, told_look_ahead
from egs_jax.speech.level import SPEECH_LOUDNESS

LEAST_FRAMES = 12
"""Frames with a face that a training split must have."""
SEEN_OF_ALL_FRAMES = (
    "audio-video lag", "mean face", "placement of the head", "body's pose", "hull of the cloud",
    "first points and colors",
)  # fmt: skip
"""Parts that are made here of all frames, held-out ones too; theirs may be as well."""


@dataclass(frozen=True)
class _Faces:
    """Landmarks of every frame, bridged where no face was seen (`valid` is False)."""

    landmarks: Float[np.ndarray, "T 478 3"]
    valid: Bool[np.ndarray, " T"]
    capture: CaptureReport


@dataclass(frozen=True)
class _Sound:
    """Sound and features of all frames, and what `meta.json` says of the features."""

    samples: Float[np.ndarray, " S"]
    features: Float[np.ndarray, "R F"]
    silence: Float[np.ndarray, "Q F"]
    told: dict


def import_dataset(
    folder: str | Path,
    dataset_dir: str | Path,
    *,
    audio_features: str = "whisper",
    look_ahead: float | None = None,
) -> Path:
    """Make a dataset folder from one in the form of AD-NeRF, RAD-NeRF, ER-NeRF, GaussianTalker, ...

    Args:
      folder: The other program's dataset.
      dataset_dir: The folder to make; a dataset that is there already is replaced.
      audio_features: "whisper", "whisper-base" or "mel" made of its sound, or its own:
        "deepspeech", "wav2vec", "hubert" or the name of a .npy file in it. An avatar that hears
        those can be evaluated, but nothing new can be said to it.
      look_ahead: As in `pipeline.preprocess`; of features made of its sound only.

    Returns:
      The dataset folder.

    Raises:
      InputError: if the folder is no such dataset, or a part of it cannot be used.
      OSError: if the disk is full or fails; a dataset that was there before is untouched.
    """
    dataset_dir = Path(dataset_dir)
    theirs = read_folder(folder)
    check_target(dataset_dir)
    height, width = read_picture(theirs.images[0]).shape[:2]
    cameras = read_cameras(theirs, width, height)
    sound = _sound(theirs, audio_features, look_ahead)
    for note in (*theirs.notes, *cameras.notes):
        print(note)
    faces, digest = _faces(theirs, sound.samples, width, height)
    with work_folder(dataset_dir) as work, jax.default_matmul_precision("highest"):
        check_room(work, round(2 * BYTES_A_PIXEL * len(theirs.images) * width * height))
        meta = _fill(work, theirs, cameras, sound, faces)
        meta["source"] = {"name": theirs.folder.resolve().name, "sha256": digest, "fps": FPS}
        (work / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
        replace_folder(work, dataset_dir)
    kept = np.setdiff1d(np.arange(len(theirs.images)), meta["left_out"])
    train, val = (
        int(np.isin(np.arange(*theirs.splits[name]), kept).sum()) for name in ("train", "val")
    )
    print(
        f"{dataset_dir}: {len(theirs.images)} frames of {width} x {height} px, {train} to train "
        f"on, {val} held out"
    )
    return dataset_dir


def _sound(theirs: AdNerfFolder, kind: str, look_ahead: float | None) -> _Sound:
    """Read the sound, and make or read its features."""
    numbers = theirs.numbers + theirs.sound_shift
    if kind in AUDIO_FEATURES:
        layout = layout_of(kind, look_ahead)
        samples = read_sound(theirs.folder, numbers)
        features = extract_features(samples, kind, loudness=SPEECH_LOUDNESS, layout=layout)
        told = {
            "kind": kind,
            "dim": features.shape[1],
            "rows_per_second": 50,
            "loudness": SPEECH_LOUDNESS,
            **told_look_ahead(kind, layout),
        }
        return _Sound(samples, features, silence_features(kind, layout=layout), told)
    if look_ahead is not None:
        raise InputError(
            f"look-ahead {look_ahead:g} s: {kind} features are as they were made; leave it out, or "
            "choose --audio-features whisper or mel"
        )
    features, file = read_features(theirs.folder, kind, numbers)
    samples = read_sound(theirs.folder, numbers)
    train = np.setdiff1d(np.arange(*theirs.splits["train"]), theirs.left_out)
    silence = np.tile(quiet_features(features, samples, train), (DEFAULT.hop_rows, 1))
    told = {
        "kind": IMPORTED,
        "name": kind,
        "file": file,
        "dim": features.shape[1],
        "rows_per_second": 50,
        "silence": "the mean of the quietest training frames",
    }
    return _Sound(samples, features, silence, told)


def _faces(
    theirs: AdNerfFolder, samples: np.ndarray, width: int, height: int
) -> tuple[_Faces, str]:
    """Find the landmarks of every frame; return the hash of what makes the folder itself, too."""
    landmarker, face, found = FaceLandmarker(), None, []
    check, digest = CaptureCheck(float(FPS), False), hashlib.sha256()
    for path in theirs.files.values():
        digest.update(path.read_bytes())
    check.add_audio(samples)
    with progress(len(theirs.images), "faces", "frame") as bar:
        for path in bar.track(theirs.images, task_id=0):
            frame = read_frame(path, width, height)
            digest.update(path.read_bytes())
            seen = landmarker.track(frame, face)
            check.add_frame(frame, None if seen is None else seen.landmarks)
            found.append(np.full((NUM_LANDMARKS, 3), np.nan) if seen is None else seen.landmarks)
            face = seen or face
    landmarks = np.stack(found).astype(np.float32)
    valid = np.isfinite(landmarks).all(axis=(1, 2))
    start, stop = theirs.splits["train"]
    if valid[start:stop].sum() < LEAST_FRAMES:
        raise InputError(
            f"{theirs.folder}: a face in {int(valid[start:stop].sum())} of the {stop - start} "
            f"frames to train on, at least {LEAST_FRAMES} are needed; give the frames of a person"
        )
    if not valid.all():
        print(
            f"no face in {int((~valid).sum())} of {len(valid)} frames: landmarks are interpolated, "
            f"{len(_faceless(valid))} frames without any nearby are left out"
        )
    capture = check.report()
    print(capture.format_table(), end="")
    return _Faces(bridge_gaps(landmarks, valid), valid, capture), digest.hexdigest()


def _faceless(valid: Bool[np.ndarray, " T"]) -> list[int]:
    """Return the frames without a face that are too many in a row to be bridged."""
    gaps = [range(*gap) for gap in runs_of(~valid) if gap.stop - gap.start > MAX_GAP]
    return [frame for gap in gaps for frame in gap]


def _fill(work: Path, theirs: AdNerfFolder, cameras: Cameras, sound: _Sound, faces: _Faces) -> dict:
    """Write every array of the dataset into `work`; returns the contents of `meta.json`."""
    landmarks, known = faces.landmarks, faces.valid.copy()
    known[theirs.left_out] = False
    left_out = sorted({*theirs.left_out, *_faceless(faces.valid)})
    track = place_head(
        cameras.viewmats, cameras.K, landmarks, known, canonical_face_mesh().vertices
    )
    size = read_picture(theirs.images[0]).shape[:2]
    frames, room, told = write_pictures(work, theirs, landmarks, size)
    figures = _tracking(frames, track, landmarks, known)
    save = lambda name, array: np.save(work / FILES[name], array)
    body, figures["body"], found = followed_body(work, frames, track, room)
    save("body_viewmats", body)
    for name, array in first_points(work, frames, track, body).items():
        save(name, array)
    save("audio_features", sound.features)
    save("silence_features", sound.silence)
    save("landmarks", landmarks)
    save("viewmats", track.viewmats.astype(np.float32))
    save("K", track.K.astype(np.float32))
    save("mean_shape", track.mean_shape.astype(np.float32))
    lids, lids_told = _lids(theirs, landmarks)
    save("blink", lids)
    save("lips_rects", np.stack([lips_rect(points, *size) for points in landmarks]))
    save("mouth_opening", mouth_opening(landmarks).astype(np.float32))
    write_wav(work / "audio.wav", sound.samples)
    return {
        "format_version": FORMAT_VERSION,
        "fps": FPS,
        "width": size[1],
        "height": size[0],
        "num_frames": len(frames),
        "splits": {name: list(split) for name, split in theirs.splits.items()},
        "left_out": left_out,
        "imported": {
            "numbers": [int(theirs.numbers[0]), int(theirs.numbers[-1])],
            "cameras": cameras.source,
            "lids": lids_told,
            **told,
        },
        "audio_features": sound.told,
        "head_masks": told["masks"],
        "face_frames": int(faces.valid.sum()),
        "tracking": figures,
        "seen_of_all_frames": list(SEEN_OF_ALL_FRAMES),
        "capture": faces.capture.as_dict(),
        "body_check": found.as_dict(),
        "models": models_used(sound.told["kind"], None),
    }


def _tracking(
    frames: Pictures, track: HeadTrack, landmarks: np.ndarray, known: Bool[np.ndarray, " T"]
) -> dict:
    """Return the figures of their head poses, and print them."""
    figures = {
        "reprojection_rms_px": reprojection_rms(track, landmarks, known),
        "focal_px": float(track.K[0, 0]),
    }
    text = (
        "their cameras: our landmarks lie {reprojection_rms_px:.2f} px rms from the mean face, "
        "focal length {focal_px:.0f} px"
    )
    if (known[1:] & known[:-1]).any():
        jitter = jitter_rms(frames, track, landmarks, known)
        figures |= {
            "jitter_px": jitter.posed,
            "jitter_still_head_px": jitter.still,
            "jitter_landmarks_px": jitter.landmarks,
        }
        text += ", jitter {jitter_px:.2f} px (a still head: {jitter_still_head_px:.2f})"
    print(text.format(**figures))
    return figures


def _lids(theirs: AdNerfFolder, landmarks: np.ndarray) -> tuple[Float[np.ndarray, " T"], str]:
    """Return how far the eyes are shut, and where that is from."""
    path = theirs.folder / "au.csv"
    if path.exists():
        return read_lids(path, theirs.numbers), "au.csv"
    print("no au.csv: lids are told from the frames")
    return blink_signal(eye_openness(landmarks).mean(-1)), "landmarks"
