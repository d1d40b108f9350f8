"""Videos of one person -> dataset folder, one command.

Frames stream through twice (`face_pass` first, since the crop needs the whole clip); nothing but a
few numbers per frame is kept in memory. The folder appears under its name only when it is complete.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import jax
import numpy as np
from jaxtyping import Float

from egs_jax.data.folder import FILES, FORMAT_VERSION
from egs_jax.data.pictures import Pictures, PicturesWriter
from egs_jax.data.statistics import calmest
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import canonical_face_mesh, eye_openness, mouth_opening
from egs_jax.face.segmentation import FaceParser
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import FPS
from egs_jax.preprocess.body_check import BodyReport, check_body
from egs_jax.preprocess.body_cloud import body_cloud
from egs_jax.preprocess.body_tracking import track_body
from egs_jax.preprocess.dataset_folder import check_target, replace_folder, work_folder
from egs_jax.preprocess.face_pass import find_faces
from egs_jax.preprocess.film_sound import FilmSound
from egs_jax.preprocess.films import open_films
from egs_jax.preprocess.frame_pass import SecondPass, write_frames
from egs_jax.preprocess.head_cloud import head_cloud
from egs_jax.preprocess.masks import lips_rect
from egs_jax.preprocess.material import Material, Sound, join_sound
from egs_jax.preprocess.pose_refinement import refine_poses
from egs_jax.preprocess.room_check import RoomFigures
from egs_jax.preprocess.shots import LEAST_STRETCH, choose_all
from egs_jax.preprocess.track_report import jitter_rms
from egs_jax.preprocess.tracking import HeadTrack, reprojection_rms, track_head
from egs_jax.runtime.assets import ASSETS, file_sha256
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import AUDIO_FEATURES, FeatureKind, silence_features
from egs_jax.speech.layout import Layout, layout_of, told_look_ahead
from egs_jax.speech.level import SPEECH_LOUDNESS
from egs_jax.speech.whisper import NETWORKS

SEEN_OF_ALL_FRAMES = (
    "crop", "audio-video lag", "mean face", "focal length", "head poses", "body's pose",
    "hull of the cloud", "first points and colors", "clean background", "blink scale",
    "exposure of several films", "what is before the mouth",
)  # fmt: skip
"""Parts of a dataset that are made of all frames, held-out ones too (see the room's docstring)."""


def preprocess(
    video: str | Path | Sequence[str | Path],
    dataset_dir: str | Path,
    *,
    size: int | None = None,
    audio_features: FeatureKind = "whisper",
    face_parser: str | Path | None = None,
    max_seconds: float | None = None,
    val_seconds: float | None = None,
    start: float | None = None,
    end: float | None = None,
    face: str | int | None = None,
    audio: str | Path | None = None,
    audio_track: int | None = None,
    look_ahead: float | None = None,
) -> Path:
    """Make a dataset folder from a video of one person speaking, or from several.

    What shows no face, a fade or a cut-away is left out; what remains are stretches, which nothing
    leads over (`data.stretches`).

    Args:
      video: The video, or several of one person in their order; any frame rate, size and rotation,
        with sound.
      dataset_dir: The folder to make; a dataset that is there already is replaced.
      size: Side of the square frames in pixels; None: 512, or less if the video shows less.
      audio_features: "whisper" (trained on English), "whisper-base" (on 99 languages, at more
        than twice the work) or "mel" (light, language-neutral).
      face_parser: A 19-class BiSeNet V2 face parser (.tflite) for better head masks.
      max_seconds: Use no more than this, from the start on.
      val_seconds: Hold out this much at the end; None: the last 1/11, as the paper.
      start: Second of the video to begin at; of a single video only.
      end: Second of the video to stop at; likewise.
      face: Whose face where there are several: "left", "right" or the number from the left (1 is
        the first); None: the largest.
      audio: Another microphone's recording of the same speech, to be heard instead of the video's
        sound; where it begins is found.
      audio_track: Number of the video's sound track, the first is 1; None: the one with the speech.
      look_ahead: The most sound after a frame that it may hear [s]: a live avatar waits for it.
        None: 0.85 for "whisper", 0.45 for "mel".

    Returns:
      The dataset folder.

    Raises:
      InputError: if a video, the parser or the folder cannot be used.
      OSError: if the disk is full or fails; a dataset that was there before is untouched.
    """
    if audio_features not in AUDIO_FEATURES:
        known = ", ".join(AUDIO_FEATURES)
        raise InputError(f"audio features: no {audio_features!r}; choose one of {known}")
    videos = [Path(video)] if isinstance(video, str | Path) else [Path(each) for each in video]
    dataset_dir = Path(dataset_dir)
    films = open_films(videos, start, end, max_seconds, audio, audio_track)
    check_target(dataset_dir)
    layout = layout_of(audio_features, look_ahead)
    parser = None if face_parser is None else FaceParser(face_parser)
    say_device("preprocessing: networks of faces on the CPU, speech and poses")
    landmarker, sounds = FaceLandmarker(), [film.sound() for film in films]
    faces = [
        find_faces(film, sound.samples, landmarker, face)
        for film, sound in zip(films, sounds, strict=True)
    ]
    material = Material(films, faces, choose_all(films, faces, face), size)
    print(material.capture.format_table(), end="")
    border = split_at(len(material.valid), val_seconds)
    with work_folder(dataset_dir) as work:
        meta = _fill(work, material, sounds, audio_features, layout, parser)
        meta["models"] = models_used(audio_features, face_parser)
        meta["splits"] = {"train": [0, border], "val": [border, len(material.valid)]}
        (work / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
        replace_folder(work, dataset_dir)
    print(f"{dataset_dir}: {meta['num_frames']} frames of {meta['width']} px")
    return dataset_dir


def _fill(
    work: Path, material: Material, sounds: Sequence[FilmSound], kind: FeatureKind,
    layout: Layout, parser: FaceParser | None,
) -> dict:  # fmt: skip
    """Write every array of the dataset into `work`; returns the contents of `meta.json`."""
    sound = join_sound(material, sounds, kind, layout)
    seen = write_frames(work, material, parser)
    frames, landmarks, valid = Pictures(work / FILES["frames"]), material.landmarks, material.valid
    side = material.frame_size
    save = lambda name, array: np.save(work / FILES[name], array)
    # A GPU's products are of 10 bits otherwise: poses are solved worse, or not at all. What hears
    # has its own, and is one program with that of later speech.
    with jax.default_matmul_precision("highest"):
        track, figures = _track(frames, material)
        body, figures["body"], found = followed_body(work, frames, track, seen.room, material.runs)
    _save_plates(work, material, seen, found)
    save("body_viewmats", body)
    for name, array in first_points(work, frames, track, body).items():
        save(name, array)
    save("audio_features", sound.features)
    save("silence_features", silence_features(kind, layout=layout))
    save("landmarks", landmarks)
    save("viewmats", track.viewmats.astype(np.float32))
    save("K", track.K.astype(np.float32))
    save("mean_shape", track.mean_shape.astype(np.float32))
    save("blink", blink_signal(eye_openness(landmarks).mean(-1)))
    save("lips_rects", np.stack([lips_rect(p, side, side) for p in landmarks]))
    save("mouth_opening", mouth_opening(landmarks).astype(np.float32))
    save("valid", valid)
    save("mouth_seen", seen.mouth_seen)
    write_wav(work / "audio.wav", sound.samples)
    sources = _sources(material, sounds, sound)
    return {
        "format_version": FORMAT_VERSION,
        "fps": FPS,
        "width": side,
        "height": side,
        "num_frames": len(frames),
        "source": joined_source(sources),
        "films": sources,
        "stretches": [stretch._asdict() for stretch in sound.stretches],
        "sound_moved_earlier_frames": sound.shifts[_longest(material)],
        "audio_features": {
            "kind": kind,
            "dim": sound.features.shape[1],
            "rows_per_second": 50,
            "loudness": SPEECH_LOUDNESS,
            **told_look_ahead(kind, layout),
        },
        "head_masks": "face parser" if parser else "person segmentation and landmarks",
        "face_frames": int(valid.sum()),
        "mouth_frames": int(seen.mouth_seen.sum()),
        "tracking": figures,
        "seen_of_all_frames": list(SEEN_OF_ALL_FRAMES),
        "capture": material.capture.as_dict(),
        "body_check": found.as_dict(),
    }


def _longest(material: Material) -> int:
    """Return the number of the film of which most is used."""
    return max(material.used, key=material.frames_used)


def _sources(material: Material, sounds: Sequence[FilmSound], sound: Sound) -> list[dict]:
    """Describe every film that was given, used or not."""
    described = []
    for k, film in enumerate(material.films):
        entry = {
            "name": film.path.name,
            "sha256": file_sha256(film.path),
            "fps": film.info.average_fps,
            "frames_used": material.frames_used(k),
            **sounds[k].origin,
        }
        if k in material.crops:
            crop = material.crops[k]
            entry["crop"] = {"left": crop.left, "top": crop.top, "side": crop.side}
            entry["gain"] = [round(float(value), 4) for value in material.gains[k]]
            entry["sound_moved_earlier_frames"] = sound.shifts[k]
        described.append(entry)
    return described


def joined_source(films: list[dict]) -> dict:
    """Return the source of a dataset, for `meta.json`: its film, or what stands for several."""
    main = max(films, key=lambda film: film["frames_used"])
    source = {name: main[name] for name in ("name", "sha256", "fps", "crop")}
    if len(films) > 1:
        source["name"] = f"{films[0]['name']} and {len(films) - 1} more"
        every = "".join(film["sha256"] for film in films)
        source["sha256"] = hashlib.sha256(every.encode()).hexdigest()
    return source


def _save_plates(work: Path, material: Material, seen: SecondPass, found: BodyReport) -> None:
    """Write the room of all films; where they have none in common, the longest one's, and each's.

    A head alone is drawn over its own film's room; a person has one room only.
    """
    plate = seen.plate
    if len(seen.film_plates) > 1 and found.plate["verdict"] == "bad":
        with PicturesWriter(work / FILES["film_plates"]) as writer:
            for k in range(len(material.films)):
                used = material.used.index(k if k in material.used else _longest(material))
                writer.append(seen.film_plates[used])
        plate = seen.film_plates[material.used.index(_longest(material))]
    imageio.imwrite(work / FILES["plate"], plate)


def models_used(audio_features: str, face_parser: str | Path | None) -> dict[str, str]:
    """Return the SHA-256 of every network of others that made a dataset, by name."""
    names = ["face_landmarker", "person_segmenter", "silero_vad"]
    if audio_features in NETWORKS:
        names.append(NETWORKS[audio_features].asset)
    models = {name: ASSETS[name].sha256 for name in names}
    if face_parser is not None:
        models["face_parser"] = file_sha256(face_parser)
    return models


def _track(frames: Pictures, material: Material) -> tuple[HeadTrack, dict]:
    """Return head poses, refined against the picture, and their figures."""
    mesh, size = canonical_face_mesh(), material.frame_size
    landmarks, valid, runs = material.landmarks, material.valid, material.runs
    track = track_head(landmarks, valid, size, size, mesh.vertices, runs)
    print("refining the head poses against the picture")
    track = refine_poses(
        frames, track, landmarks, valid, canonical=mesh.vertices, triangles=mesh.triangles,
        runs=runs,
    )  # fmt: skip
    jitter = jitter_rms(frames, track, landmarks, valid, runs)
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


def followed_body(
    work: Path,
    frames: Pictures,
    track: HeadTrack,
    room: RoomFigures | None,
    runs: Sequence[tuple[int, int]] | None = None,
) -> tuple[np.ndarray, dict, BodyReport]:
    """Return body poses [T, 4, 4], their figures, and whether all is good for a whole person."""
    heads, people = (Pictures(work / FILES[name]) for name in ("head_masks", "person_masks"))
    rest = calmest(track.viewmats)
    found = track_body(frames, heads, people, track.viewmats, track.K, rest, runs)
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


def first_points(
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
    if start < LEAST_STRETCH // 2 or start >= frames:
        raise InputError(
            f"--val-seconds {val_seconds}: the clip has {frames / FPS:.1f} s, which leaves nothing "
            "to train or to validate on; hold out less"
        )
    return start
