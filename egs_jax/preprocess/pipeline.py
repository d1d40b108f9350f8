"""Video of one person -> dataset folder, one command.

Frames stream through twice (`face_pass` first, since the crop needs the whole clip); nothing but a
few numbers per frame is kept in memory. The folder appears under its name only when it is complete.
"""

import contextlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from jaxtyping import Float

from egs_jax.data.folder import FILES, FORMAT_VERSION, PICTURES
from egs_jax.data.pictures import Pictures, PicturesWriter
from egs_jax.data.statistics import calmest
from egs_jax.face.mesh import canonical_face_mesh, eye_openness, mouth_opening
from egs_jax.face.segmentation import FaceParser, PersonSegmenter
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.video_reader import VideoInfo, probe, read_frames
from egs_jax.preprocess.body_check import BodyReport, check_body
from egs_jax.preprocess.body_cloud import body_cloud
from egs_jax.preprocess.body_tracking import track_body
from egs_jax.preprocess.crop import Crop, choose_crop
from egs_jax.preprocess.face_pass import LEAST_FRAMES, Faces, find_faces
from egs_jax.preprocess.film_sound import FilmSound, check_speech, film_sound
from egs_jax.preprocess.head_cloud import head_cloud
from egs_jax.preprocess.masks import BackgroundModel, HeadMasker, lips_rect
from egs_jax.preprocess.pose_refinement import refine_poses
from egs_jax.preprocess.room_check import RoomCheck, RoomFigures
from egs_jax.preprocess.track_report import jitter_rms
from egs_jax.preprocess.tracking import HeadTrack, reprojection_rms, track_head
from egs_jax.runtime.assets import ASSETS, file_sha256
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import needs_room
from egs_jax.runtime.progress import progress
from egs_jax.speech.features import AUDIO_FEATURES, extract_features, silence_features
from egs_jax.speech.level import SPEECH_LOUDNESS

_NAMES = {"meta.json", "audio.wav", *FILES.values()}
SEEN_OF_ALL_FRAMES = (
    "crop", "audio-video lag", "mean face", "focal length", "head poses", "body's pose",
    "hull of the cloud", "first points and colors", "clean background", "blink scale",
)  # fmt: skip
"""Parts of a dataset that are made of all frames, held-out ones too (see the room's docstring)."""
BYTES_A_PIXEL = 1.0
"""What frames and masks take at most: 0.6 of sharp clips, more of noise."""
NATURAL_LAG = 2
"""Frames by which lips open before their sound is loud, in speech in sync."""


def preprocess(
    video: str | Path,
    dataset_dir: str | Path,
    *,
    size: int | None = None,
    audio_features: str = "whisper",
    face_parser: str | Path | None = None,
    max_seconds: float | None = None,
    val_seconds: float | None = None,
    audio: str | Path | None = None,
    audio_track: int | None = None,
) -> Path:
    """Make a dataset folder from a video of one person speaking.

    Args:
      video: The video; any frame rate, size and rotation, with sound.
      dataset_dir: The folder to make; a dataset that is there already is replaced.
      size: Side of the square frames in pixels; None: 512, or less if the video shows less.
      audio_features: "whisper" (trained on English) or "mel" (light, language-neutral).
      face_parser: A 19-class BiSeNet V2 face parser (.tflite) for better head masks.
      max_seconds: Use only the start of the video.
      val_seconds: Hold out this much at the end; None: the last 1/11, as the paper.
      audio: Another microphone's recording of the same speech, to be heard instead of the video's
        sound; where it begins is found.
      audio_track: Number of the video's sound track, the first is 1; None: the one with the speech.

    Returns:
      The dataset folder.

    Raises:
      InputError: if the video, the parser or the folder cannot be used.
      OSError: if the disk is full or fails; a dataset that was there before is untouched.
    """
    video, dataset_dir = Path(video), Path(dataset_dir)
    info = probe(video)
    _check_target(dataset_dir)
    if not info.has_audio:
        raise InputError(
            f"{video}: has no sound track; training needs the speech, record with a microphone"
        )
    if audio_features not in AUDIO_FEATURES:
        known = ", ".join(AUDIO_FEATURES)
        raise InputError(f"audio features: no {audio_features!r}; choose one of {known}")
    parser = None if face_parser is None else FaceParser(face_parser)
    sound = film_sound(video, audio=audio, track=audio_track)
    if max_seconds is not None:
        sound = replace(sound, samples=sound.samples[: round(max_seconds * SAMPLE_RATE)])
    heard = check_speech(video, sound.samples)
    faces = find_faces(video, info, sound.samples, max_seconds)
    start = split_at(len(faces.valid), val_seconds)
    work = _work_folder(dataset_dir)
    try:
        meta = _fill(work, video, info, sound, faces, size, audio_features, parser, max_seconds)
        meta["sound"] = heard
        meta["models"] = _models(audio_features, face_parser)
        meta["splits"] = {"train": [0, start], "val": [start, len(faces.valid)]}
        (work / "meta.json").write_text(json.dumps(meta, indent=2))
        _replace_folder(work, dataset_dir)
    except OSError as error:
        hint = "; make room" if needs_room(error) else ""
        raise OSError(f"{dataset_dir}: cannot make the dataset ({error}){hint}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{dataset_dir}: {meta['num_frames']} frames of {meta['width']} px")
    return dataset_dir


def _fill(
    work: Path, video: Path, info: VideoInfo, sound: FilmSound, faces: Faces, size: int | None,
    kind: str, parser: FaceParser | None, max_seconds: float | None,
) -> dict:  # fmt: skip
    """Write every array of the dataset into `work`; returns the contents of `meta.json`."""
    samples, shift = align_sound(sound.samples, faces.capture["audio-video lag"].value)
    crop, valid = choose_crop(faces.landmarks, info.width, info.height, size), faces.valid
    landmarks = crop.landmarks(faces.landmarks)
    samples = _fit_length(samples, len(landmarks))
    features = extract_features(samples, kind, loudness=SPEECH_LOUDNESS)
    frames, room = _cut_frames(work, video, crop, landmarks, parser, max_seconds)
    track, figures = _track(frames, landmarks, valid, crop.size)
    save = lambda name, array: np.save(work / FILES[name], array)
    body, figures["body"], found = _body(work, frames, track, room)
    save("body_viewmats", body)
    for name, array in _clouds(work, frames, track, body).items():
        save(name, array)
    save("audio_features", features)
    save("silence_features", silence_features(kind))
    save("landmarks", landmarks)
    save("viewmats", track.viewmats.astype(np.float32))
    save("K", track.K.astype(np.float32))
    save("mean_shape", track.mean_shape.astype(np.float32))
    save("blink", blink_signal(eye_openness(landmarks).mean(-1)))
    save("lips_rects", np.stack([lips_rect(p, crop.size, crop.size) for p in landmarks]))
    save("mouth_opening", mouth_opening(landmarks).astype(np.float32))
    write_wav(work / "audio.wav", samples)
    return {
        "format_version": FORMAT_VERSION,
        "fps": FPS,
        "width": crop.size,
        "height": crop.size,
        "num_frames": len(frames),
        "source": {
            "name": video.name,
            "sha256": file_sha256(video),
            "fps": info.average_fps,
            "crop": {"left": crop.left, "top": crop.top, "side": crop.side},
        }
        | sound.origin,
        "sound_moved_earlier_frames": shift,
        "audio_features": {
            "kind": kind,
            "dim": features.shape[1],
            "rows_per_second": 50,
            "loudness": SPEECH_LOUDNESS,
        },
        "head_masks": "face parser" if parser else "person segmentation and landmarks",
        "face_frames": int(valid.sum()),
        "tracking": figures,
        "seen_of_all_frames": list(SEEN_OF_ALL_FRAMES),
        "capture": faces.capture.as_dict(),
        "body_check": found.as_dict(),
    }


def _models(audio_features: str, face_parser: str | Path | None) -> dict[str, str]:
    """Return the SHA-256 of every network of others that made a dataset, by name."""
    names = ["face_landmarker", "person_segmenter", "silero_vad"]
    if audio_features == "whisper":
        names.append("whisper_tiny_en")
    models = {name: ASSETS[name].sha256 for name in names}
    if face_parser is not None:
        models["face_parser"] = file_sha256(face_parser)
    return models


def align_sound(
    samples: Float[np.ndarray, " S"], lag: float | None
) -> tuple[Float[np.ndarray, " S2"], int]:
    """Undo a recording's own delay between lips and sound, so that the avatar does not learn it.

    Args:
      samples: The sound.
      lag: Frames by which the sound comes after the lips, or None if that is not known.

    Returns:
      The sound moved earlier (later if negative), and by how many frames.
    """
    shift = 0 if lag is None else round(lag - NATURAL_LAG)
    if abs(shift) < 2:
        return samples, 0
    off = f"{abs(lag):.0f} frames {'after' if lag >= 0 else 'before'} the lips"
    way = "earlier" if shift > 0 else "later"
    print(f"the sound comes {off}, {NATURAL_LAG} after are natural; moved {abs(shift)} {way}")
    moved = shift * SAMPLE_RATE // FPS
    return (samples[moved:] if moved > 0 else np.pad(samples, (-moved, 0))), shift


def _cut_frames(
    work: Path, video: Path, crop: Crop, landmarks: np.ndarray, parser: FaceParser | None,
    max_seconds: float | None,
) -> tuple[Pictures, RoomFigures | None]:  # fmt: skip
    """Write frames, masks and the plate; returns the frames and what was seen of the room."""
    count, size = len(landmarks), crop.size
    _check_room(work, round(BYTES_A_PIXEL * count * size**2))
    segmenter, masker = PersonSegmenter(), HeadMasker(size, size)
    room, looks = BackgroundModel(size, size), RoomCheck()
    with contextlib.ExitStack() as stack:
        frames, heads, people = (
            stack.enter_context(PicturesWriter(work / FILES[name])) for name in PICTURES
        )
        bar = stack.enter_context(progress(count, "frames and masks", "frame"))
        for i, source in enumerate(bar.track(read_frames(video, FPS, max_seconds), task_id=0)):
            frame = crop.image(source)
            labels = None if parser is None else parser.parse(frame)
            masks = masker.update(landmarks[i], segmenter.segment(frame), labels)
            frames.append(frame)
            heads.append(masks.head)
            people.append(masks.soft_person)
            if i % 10 == 0:
                room.update(frame, masks.foreground, masks.others)
                looks.update(frame, masks)
    plate = room.result()
    imageio.imwrite(work / FILES["plate"], plate)
    return Pictures(work / FILES["frames"]), looks.result(plate)


def _track(
    frames: Pictures, landmarks: np.ndarray, valid: np.ndarray, size: int
) -> tuple[HeadTrack, dict]:
    """Return head poses, refined against the picture, and their figures."""
    mesh = canonical_face_mesh()
    track = track_head(landmarks, valid, size, size, mesh.vertices)
    print("refining the head poses against the picture")
    track = refine_poses(
        frames, track, landmarks, valid, canonical=mesh.vertices, triangles=mesh.triangles
    )
    jitter = jitter_rms(frames, track, landmarks, valid)
    figures = {
        "reprojection_rms_px": reprojection_rms(track, landmarks, valid),
        "jitter_px": jitter.posed,
        "jitter_still_head_px": jitter.still,
        "jitter_landmarks_px": jitter.landmarks,
        "focal_px": float(track.K[0, 0]),
    }
    print(
        "tracking: reprojection {reprojection_rms_px:.2f} px rms, jitter {jitter_px:.2f} px "
        "(a still head: {jitter_still_head_px:.2f}, landmarks: {jitter_landmarks_px:.2f}), "
        "focal length {focal_px:.0f} px".format(**figures)
    )
    return track, figures


def _body(
    work: Path, frames: Pictures, track: HeadTrack, room: RoomFigures | None
) -> tuple[np.ndarray, dict, BodyReport]:
    """Return body poses [T, 4, 4], their figures, and whether all is good for a whole person."""
    heads, people = (Pictures(work / FILES[name]) for name in ("head_masks", "person_masks"))
    found = track_body(frames, heads, people, track.viewmats, track.K, calmest(track.viewmats))
    median, high = found.residual_px
    figures = {
        "followed": found.followed,
        "residual_px": median if found.followed else None,
        "residual_p95_px": high if found.followed else None,
        "lost_share": found.failed,
        "moves_px": found.moves_px,
        "torso_share": found.torso_share,
    }
    if found.followed:
        print(
            f"body: moves {found.moves_px:.1f} px, followed to {median:.2f} px, "
            f"lost in {found.failed:.0%} of the frames"
        )
    else:
        print("body: too little of it is seen to follow; it stands still")
    report = check_body(room, found, frames.shape[2])
    print(report.format(), end="")
    return found.cam_from_body, figures, report


def _clouds(
    work: Path, frames: Pictures, track: HeadTrack, body: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the points that head and body start from."""
    heads, people = (Pictures(work / FILES[name]) for name in ("head_masks", "person_masks"))
    points, colors = head_cloud(
        track.mean_shape, canonical_face_mesh().triangles, track.viewmats, track.K,
        heads.__getitem__, frames,
    )  # fmt: skip
    body_points, body_colors = body_cloud(track.mean_shape, body, track.K, heads, people, frames)
    return {
        "points": points, "point_colors": colors,
        "body_points": body_points, "body_point_colors": body_colors,
    }  # fmt: skip


def blink_signal(openness: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Return blink in [0, 1] from eye openness: 0 the clip's own open eye, 1 its shut one.

    A clip without a blink has no shut eye; a lid gap of 0.35 of the open one stands in for it.
    """
    opened = float(np.median(openness))
    shut = min(float(np.quantile(openness, 0.002)), 0.35 * opened)
    return np.clip((0.95 * opened - openness) / (0.95 * opened - shut), 0, 1).astype(np.float32)


def split_at(frames: int, val_seconds: float | None) -> int:
    """Return the first val frame: after 10/11 of the clip, or `val_seconds` before its end.

    Raises:
      InputError: if no training frames would be left.
    """
    start = frames * 10 // 11 if val_seconds is None else frames - round(val_seconds * FPS)
    if start < LEAST_FRAMES // 2 or start >= frames:
        raise InputError(
            f"--val-seconds {val_seconds}: the clip has {frames / FPS:.1f} s, which leaves nothing "
            "to train or to validate on; hold out less"
        )
    return start


def _fit_length(samples: np.ndarray, frames: int) -> np.ndarray:
    """Return sound cut or padded with silence to exactly the video's length."""
    wanted = frames * SAMPLE_RATE // FPS
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder.parent}: the dataset takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            "free; make room, or lower --size or --max-seconds"
        )


def _check_target(folder: Path) -> None:
    """Refuse to replace anything that is not a dataset and nothing else."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if names and ("meta.json" not in names or names - _NAMES):
            other = min(names - _NAMES, default="no meta.json")
            raise InputError(
                f"{folder}: is there already and is not only a dataset ({other}); name another "
                "folder"
            )
    elif folder.exists():
        raise InputError(f"{folder}: is there already and is not a folder; name another")


def _work_folder(target: Path) -> Path:
    """Make a new folder beside `target`, on the same disk."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{target}: cannot make this folder ({error.strerror}); name another"
        ) from None


def _replace_folder(made: Path, target: Path) -> None:
    """Put `made` in the place of `target`."""
    old = target.with_name(f".{target.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    made.chmod(0o755)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)
