"""Video of one person -> dataset folder, one command.

(3) of the data's way; before: `video`, `audio`; after: `dataset`, which reads the folder. Frames
stream through twice (faces first, since the crop needs all of them); nothing but a few numbers per
frame is kept in memory. The folder appears under its name only when it is complete.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from egs_jax.audio import SAMPLE_RATE, extract_features, silence_features
from egs_jax.audio_file import read_audio, write_wav
from egs_jax.capture_check import CaptureCheck, CaptureReport
from egs_jax.dataset import FORMAT_VERSION
from egs_jax.errors import InputError
from egs_jax.face_mesh import canonical_face_mesh, eye_openness, mouth_opening
from egs_jax.head_cloud import head_cloud
from egs_jax.landmarks import FaceLandmarker
from egs_jax.masks import BackgroundModel, HeadMasker, lips_rect, paint_out_head
from egs_jax.pose_refinement import refine_poses
from egs_jax.run_log import progress
from egs_jax.segmentation import FaceParser, PersonSegmenter
from egs_jax.track_report import jitter_rms
from egs_jax.tracking import HeadTrack, reprojection_rms, track_head
from egs_jax.video import VideoInfo, probe, read_frames

FPS = 25
DEFAULT_SIZE = 512
MAX_GAP = 10
"""Frames (0.4 s) without a face that are bridged."""
LEAST_FRAMES = 25
MARGINS = (0.75, 0.5, 0.75)
"""Room kept around the face when cropping, in face heights: above, below, to each side."""


@dataclass(frozen=True)
class Crop:
    """The square of the source that becomes the frame."""

    left: int
    top: int
    side: int
    size: int
    """Side of the frame, pixels."""

    def image(self, frame: np.ndarray) -> np.ndarray:
        """Crop and scale, uint8 [size,size,3]."""
        rows, cols = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        square = frame[rows, cols]
        if self.side == self.size:
            return np.ascontiguousarray(square)
        shrinks = self.size < self.side
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(square, (self.size, self.size), interpolation=how)

    def landmarks(self, points: np.ndarray) -> np.ndarray:
        """Landmarks of the source [...,3] in pixels of the frame."""
        return ((points - [self.left, self.top, 0]) * (self.size / self.side)).astype(np.float32)


def preprocess(
    video: str | Path,
    dataset_dir: str | Path,
    *,
    size: int | None = None,
    audio_features: str = "whisper",
    face_parser: str | Path | None = None,
    max_seconds: float | None = None,
    val_seconds: float | None = None,
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

    Returns:
      The dataset folder.

    Raises:
      InputError: if the video, the parser or the folder cannot be used.
    """
    video, dataset_dir = Path(video), Path(dataset_dir)
    info = probe(video)
    _check_target(dataset_dir)
    if not info.has_audio:
        raise InputError(
            f"{video}: has no sound track; training needs the speech, record with a microphone"
        )
    parser = None if face_parser is None else FaceParser(face_parser)
    samples = read_audio(video)
    if max_seconds is not None:
        samples = samples[: round(max_seconds * SAMPLE_RATE)]
    dataset_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{dataset_dir.name}-", dir=dataset_dir.parent))
    try:
        meta = _fill(
            work, video, info, samples, size, audio_features, parser, max_seconds, val_seconds
        )
        (work / "meta.json").write_text(json.dumps(meta, indent=2))
        _replace_folder(work, dataset_dir)
    except OSError as error:
        raise OSError(f"{dataset_dir}: cannot write the dataset ({error}); make room") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{dataset_dir}: {meta['num_frames']} frames of {meta['width']} px")
    return dataset_dir


def _fill(
    work: Path, video: Path, info: VideoInfo, samples: np.ndarray, size: int | None, kind: str,
    parser: FaceParser | None, max_seconds: float | None, val_seconds: float | None,
) -> dict:  # fmt: skip
    """Write every array of the dataset into `work`; returns the contents of `meta.json`."""
    source_landmarks, valid, capture = _find_faces(video, info, samples, max_seconds)
    print(capture.format_table(), end="")
    _check_faces(video, valid)
    landmarks = _bridge(source_landmarks, valid)
    crop = choose_crop(landmarks, info.width, info.height, size)
    landmarks = crop.landmarks(landmarks)
    frames, clean = _cut_frames(work, video, crop, landmarks, parser, max_seconds)
    _paint_backgrounds(work, frames, clean)
    track, figures = _track(frames, landmarks, valid, crop.size)
    _cloud(work, frames, track)
    features = extract_features(_fit_length(samples, len(frames)), kind)
    save = lambda name, array: np.save(work / f"{name}.npy", array)
    save("audio_features", features)
    save("silence_features", silence_features(kind))
    save("landmarks", landmarks)
    save("viewmats", track.viewmats.astype(np.float32))
    save("K", track.K.astype(np.float32))
    save("mean_shape", track.mean_shape.astype(np.float32))
    save("blink", blink_signal(eye_openness(landmarks).mean(-1)))
    save("lips_rects", np.stack([lips_rect(p, crop.size, crop.size) for p in landmarks]))
    save("mouth_opening", mouth_opening(landmarks).astype(np.float32))
    write_wav(work / "audio.wav", _fit_length(samples, len(frames)))
    start = split_at(len(frames), val_seconds)
    return {
        "format_version": FORMAT_VERSION,
        "fps": FPS,
        "width": crop.size,
        "height": crop.size,
        "num_frames": len(frames),
        "splits": {"train": [0, start], "val": [start, len(frames)]},
        "source": {
            "name": video.name,
            "sha256": _sha256(video),
            "fps": info.average_fps,
            "crop": {"left": crop.left, "top": crop.top, "side": crop.side},
        },
        "audio_features": {"kind": kind, "dim": features.shape[1], "rows_per_second": 50},
        "head_masks": "face parser" if parser else "person segmentation and landmarks",
        "face_frames": int(valid.sum()),
        "tracking": figures,
        "capture": capture.as_dict(),
    }


def _find_faces(
    video: Path, info: VideoInfo, samples: np.ndarray, max_seconds: float | None
) -> tuple[np.ndarray, np.ndarray, CaptureReport]:
    """Landmarks of every frame in source pixels [T,478,3] (NaN: no face), which have one, check."""
    landmarker, face = FaceLandmarker(), None
    check = CaptureCheck(info.average_fps, info.variable_rate)
    check.add_audio(samples)
    found = []
    with progress(_expected(info, max_seconds), "faces", "frame") as bar:
        for frame in bar.track(read_frames(video, FPS, max_seconds), task_id=0):
            seen = landmarker.track(frame, face)
            check.add_frame(frame, None if seen is None else seen.landmarks)
            found.append(np.full((478, 3), np.nan) if seen is None else seen.landmarks)
            face = seen or face
    landmarks = np.stack(found).astype(np.float32)
    return landmarks, np.isfinite(landmarks).all(axis=(1, 2)), check.report()


def _check_faces(video: Path, valid: np.ndarray) -> None:
    """Refuse a clip without a face, too short, or with gaps too long to bridge."""
    print(f"face found in {int(valid.sum())} of {len(valid)} frames")
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


def missing_ranges(valid: np.ndarray) -> list[tuple[int, int]]:
    """Runs [start, stop) of frames without a face."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], valid, [True]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _bridge(landmarks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Interpolate landmarks over frames without a face."""
    if valid.all():
        return landmarks
    known, flat = np.flatnonzero(valid), landmarks.reshape(len(valid), -1)
    filled = [np.interp(np.arange(len(valid)), known, column[known]) for column in flat.T]
    return np.stack(filled, axis=1).reshape(landmarks.shape).astype(np.float32)


def choose_crop(landmarks: np.ndarray, width: int, height: int, size: int | None) -> Crop:
    """The square around the head over the whole clip; a square clip is not cropped."""
    side, left, top = min(width, height), 0, 0
    if width != height:
        points = landmarks[..., :2]
        tall = float(np.median(points[..., 1].max(1) - points[..., 1].min(1)))
        above, below, beside = (margin * tall for margin in MARGINS)
        x0, x1 = points[..., 0].min() - beside, points[..., 0].max() + beside
        y0, y1 = points[..., 1].min() - above, points[..., 1].max() + below
        side = int(min(side, np.ceil(max(x1 - x0, y1 - y0) / 2) * 2))
        left = int(np.clip(round((x0 + x1 - side) / 2), 0, width - side))
        top = int(np.clip(round((y0 + y1 - side) / 2), 0, height - side))
    return Crop(left, top, side, size or min(DEFAULT_SIZE, side - side % 2))


def _cut_frames(
    work: Path, video: Path, crop: Crop, landmarks: np.ndarray, parser: FaceParser | None,
    max_seconds: float | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Write frames and masks; returns the frames (memory-mapped) and the clean background."""
    count, size = len(landmarks), crop.size
    _check_room(work, count * size * (6 * size + size // 4))
    frames = _create(work / "frames.npy", (count, size, size, 3))
    heads = _create(work / "head_masks.npy", (count, size, -(-size // 8)))
    people = _create(work / "person_masks.npy", heads.shape)
    segmenter, masker = PersonSegmenter(), HeadMasker(size, size)
    room = BackgroundModel(size, size)
    with progress(count, "frames and masks", "frame") as bar:
        for i, source in enumerate(bar.track(read_frames(video, FPS, max_seconds), task_id=0)):
            frames[i] = frame = crop.image(source)
            labels = None if parser is None else parser.parse(frame)
            masks = masker.update(landmarks[i], segmenter.segment(frame), labels)
            heads[i], people[i] = np.packbits(masks.head, -1), np.packbits(masks.person, -1)
            if i % 10 == 0:
                room.update(frame, masks.foreground)
    clean = room.result()
    cv2.imwrite(str(work / "clean_background.png"), cv2.cvtColor(clean, cv2.COLOR_RGB2BGR))
    for array in (frames, heads, people):
        array.flush()
    return frames, clean


def _paint_backgrounds(work: Path, frames: np.ndarray, clean: np.ndarray) -> None:
    """Write every frame with its head painted out."""
    size = frames.shape[1]
    backgrounds = _create(work / "backgrounds.npy", frames.shape)
    with progress(len(frames), "backgrounds", "frame") as bar:
        for i, (head, person) in enumerate(bar.track(_masks(work, size), task_id=0)):
            backgrounds[i] = paint_out_head(np.asarray(frames[i]), head, person, clean)
    backgrounds.flush()
    (work / "person_masks.npy").unlink()


def _masks(work: Path, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Head and person masks of every frame, bool [size,size] each."""
    heads, people = (
        np.load(work / f"{name}_masks.npy", mmap_mode="r") for name in ("head", "person")
    )
    for head, person in zip(heads, people, strict=True):
        yield tuple(np.unpackbits(m, axis=-1, count=size).astype(bool) for m in (head, person))


def _track(
    frames: np.ndarray, landmarks: np.ndarray, valid: np.ndarray, size: int
) -> tuple[HeadTrack, dict]:
    """Head poses, refined against the picture, and their figures."""
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


def _cloud(work: Path, frames: np.ndarray, track: HeadTrack) -> None:
    """Write the initial cloud."""
    mesh = canonical_face_mesh()
    heads = np.load(work / "head_masks.npy", mmap_mode="r")
    size = frames.shape[2]
    mask = lambda i: np.unpackbits(heads[i], axis=-1, count=size).astype(bool)
    points, colors = head_cloud(
        track.mean_shape, mesh.triangles, track.viewmats, track.K, mask, frames
    )
    np.save(work / "points.npy", points)
    np.save(work / "point_colors.npy", colors)


def blink_signal(openness: np.ndarray) -> np.ndarray:
    """Blink in [0,1] from eye openness [T]: 0 is the clip's own open eye, 1 its own shut one.

    A clip without a blink has no shut eye; a lid gap of 0.35 of the open one stands in for it.
    """
    opened = float(np.median(openness))
    shut = min(float(np.quantile(openness, 0.002)), 0.35 * opened)
    return np.clip((0.95 * opened - openness) / (0.95 * opened - shut), 0, 1).astype(np.float32)


def split_at(frames: int, val_seconds: float | None) -> int:
    """First frame of the val split: after 10/11 of the clip, or `val_seconds` before its end.

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
    """Sound cut or padded with silence to exactly the video's length."""
    wanted = frames * SAMPLE_RATE // FPS
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))


def _expected(info: VideoInfo, max_seconds: float | None) -> int:
    seconds = min(info.duration, max_seconds or info.duration)
    return max(1, round(seconds * FPS))


def _create(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder.parent}: the dataset takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            "free; make room, or lower --size or --max-seconds"
        )


def _check_target(folder: Path) -> None:
    if folder.exists() and not (folder / "meta.json").exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise InputError(f"{folder}: exists and is not a dataset; name another folder")


def _replace_folder(made: Path, target: Path) -> None:
    """Put `made` in the place of `target`."""
    old = target.with_name(f".{target.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    made.chmod(0o755)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
