"""A trained run -> `eval.json` and `report.html`: every figure on raw frames, before any encoding.

What each figure means is said in the README; formulas are in `metrics.py`. A figure that could
not be computed is null, with its reason under "notes".
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step, pad_batch, to_uint8
from egs_jax.avatar.stream import MICRO_BATCH, MicroBatch, dispatch, fetch
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import metrics
from egs_jax.evaluation.baselines import MeanFrame, NearestFrame
from egs_jax.evaluation.metrics import Figure, mean_figure
from egs_jax.evaluation.report import write_report
from egs_jax.face.landmarks import MIN_PRESENCE, FaceLandmarker, roi_of_landmarks
from egs_jax.face.mesh import eye_openness, mouth_opening
from egs_jax.media.audio_file import read_audio
from egs_jax.runtime.files import write_atomically
from egs_jax.runtime.progress import progress
from egs_jax.speech.features import SAMPLE_RATE
from egs_jax.training.perceptual import PerceptualParams, load_perceptual, lpips
from egs_jax.types import Drive

SILENT_FRAMES = 32
"""Training frames rendered under silence."""
TRAIN_FRAMES = 200
"""Training frames rendered as spoken, to which the silent ones are compared."""
SLICED = 500
"""Frames of which the report shows slices through time."""


@dataclass
class Measured:
    """What was measured on every frame of a split, on the render and on the true composite."""

    frames: np.ndarray
    """Indices in the clip, int [T]."""
    images: dict[str, np.ndarray]
    """Image figures by name, float [T]; head_fraction too."""
    landmarks: np.ndarray
    """On the renders, float32 [T,478,3], NaN where no face was seen."""
    true_landmarks: np.ndarray
    """On the true composites, likewise."""
    rows: UInt8[np.ndarray, "2 T Wd 3"]
    """A row of pixels through the eyes, of the true composite and of the render."""
    columns: UInt8[np.ndarray, "2 T H 3"]
    """A column through the mouth, likewise."""


def evaluate(run_dir: str | Path, split: str = "val") -> dict:
    """Measure a run on one split; prints a table, writes `eval.json` and `report.html`.

    Raises:
      InputError: if the run or its dataset cannot be read.
    """
    run_dir = Path(run_dir)
    avatar = Avatar.load(run_dir)
    data = avatar.dataset
    start, stop = data.splits[split]
    frames = np.arange(start, stop)
    landmarker = FaceLandmarker()
    measured = _measure_split(avatar, frames, landmarker)
    figures = (
        {name: mean_figure(v, "undefined there") for name, v in measured.images.items()}
        | _baseline_figures(avatar, frames)
        | _mouth_figures(avatar, measured, landmarker)
        | _sync_figures(avatar, measured)
    )
    jitter = data.meta.get("tracking", {}).get("jitter_px")
    figures["jitter_px"] = Figure(jitter, None if jitter is not None else "not in the dataset")
    figures["render_fps"] = Figure(_render_fps(avatar, frames))
    values, notes = metrics.report(figures)
    result = {
        "split": split,
        "frames": len(frames),
        "width": data.width,
        "height": data.height,
        **values,
        "num_gaussians": int(np.sum(avatar.alive)),
        "device": jax.devices()[0].device_kind,
        "notes": notes,
    }
    write_atomically(run_dir / "eval.json", json.dumps(result, indent=2))
    pictures = {
        "Worst frames (truth, render)": worst_frames(avatar, measured),
        "Slices through time (truth, render)": slices_through_time(measured.rows, measured.columns),
    }
    write_report(run_dir, result, pictures)
    for name, value in result.items():
        if name != "notes":
            shown = f"{value:.4f}" if isinstance(value, float) else value
            print(f"{name:28} {shown}" + (f"  ({notes[name]})" if name in notes else ""))
    return result


def draw(
    avatar: Avatar, frames: np.ndarray, windows: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Renders of the clip's own `frames` (float32 [H,W,3] each), if given with other sound.

    Args:
      avatar: The avatar.
      frames: Indices in the clip, int [T]; pose, eyes and background are those of the frame.
      windows: Frames whose sound is heard instead, int [T], or audio windows [T,W,16,F].
    """
    data, window_frames = avatar.dataset, avatar.config.model.window_frames
    for at in range(0, len(frames), MICRO_BATCH):
        part = slice(at, at + MICRO_BATCH)
        drive = data.drive(frames[part], window_frames)
        if windows is not None:
            heard = windows[part]
            if heard.ndim == 1:
                heard = data.audio_windows(heard, window_frames)
            drive = drive.replace(audio_windows=heard)
        yield from _rendered(avatar, drive)


def _rendered(avatar: Avatar, drive: Drive) -> np.ndarray:
    """Renders of at most MICRO_BATCH frames, float32 [B,H,W,3], by one compiled program."""
    return np.asarray(infer_step(avatar, pad_batch(drive, MICRO_BATCH)).rgb)[: len(drive.eyes)]


def worst_frames(
    avatar: Avatar, measured: Measured, count: int = 4
) -> list[tuple[str, np.ndarray]]:
    """The frames with the lowest `psnr_head`: caption, and truth beside render, uint8 [H,2W,3]."""
    order = np.argsort(measured.images["psnr_head"])[:count]
    chosen = measured.frames[order]
    return [
        (
            f"frame {i}: psnr_head {measured.images['psnr_head'][k]:.1f} dB",
            np.hstack([avatar.dataset.target(i), to_uint8(image)]),
        )
        for i, k, image in zip(chosen, order, draw(avatar, chosen), strict=True)
    ]


def _measure_split(avatar: Avatar, frames: np.ndarray, landmarker: FaceLandmarker) -> Measured:
    data, alexnet = avatar.dataset, load_perceptual("alexnet")
    points = np.empty((len(frames), 478, 3), np.float32)
    true = np.empty_like(points)
    images: dict[str, list[float]] = {}
    row = int(np.mean([data.eyes_rect(i)[:2] for i in frames]))
    column = int(np.mean([data.lips_rect(i)[2:] for i in frames]))
    rows, columns = [], []
    with progress(len(frames), "evaluate: frames", "frame") as bar:
        for k, (i, image) in enumerate(zip(frames, draw(avatar, frames), strict=True)):
            for name, value in _image_figures(data, int(i), image, alexnet).items():
                images.setdefault(name, []).append(value)
            both = data.target(i), to_uint8(image)
            true[k], points[k] = (measure(landmarker, view, data.landmarks(i)) for view in both)
            rows.append(np.stack([view[row] for view in both]))
            columns.append(np.stack([view[:, column] for view in both]))
            bar.update(0, completed=k + 1)
    values = {name: np.array(each) for name, each in images.items()}
    return Measured(frames, values, points, true, np.stack(rows, 1), np.stack(columns, 1))


def slices_through_time(
    rows: UInt8[np.ndarray, "2 T Wd 3"], columns: UInt8[np.ndarray, "2 T H 3"]
) -> list[tuple[str, np.ndarray]]:
    """One line of every frame, side by side: a whole video at a glance.

    What moves is a curve there; jitter is a curve that trembles, a stiff mouth one too straight.

    Args:
      rows: As in `Measured`.
      columns: Likewise.

    Returns:
      Captions and pictures, uint8 RGB, of the first `SLICED` frames; fewer are drawn wider.
    """
    wide = max(1, SLICED // rows.shape[1])
    row, column = (lines[:, :SLICED].repeat(wide, axis=1) for lines in (rows, columns))
    return [
        ("a row through the eyes, time downwards: truth left, render right", np.hstack(list(row))),
        (
            "a column through the mouth, time to the right: truth above, render below",
            np.vstack(list(column.swapaxes(1, 2))),
        ),
    ]


def _image_figures(
    data: Dataset, i: int, image: np.ndarray, alexnet: PerceptualParams
) -> dict[str, float]:
    """All image figures of one render, float32 [H,W,3]."""
    image = np.clip(image, 0, 1)[None]
    mask, rect = data.head_mask(i)[None], data.lips_rect(i)[None]
    target = (data.target(i)[None] / 255).astype(np.float32)
    values = {
        "head_fraction": mask.mean(axis=(1, 2)),
        "psnr": metrics.psnr(image, target),
        "psnr_head": metrics.psnr_masked(image, target, mask),
        "psnr_lips": metrics.psnr_rect(image, target, rect),
        "psnr_frame": metrics.psnr(image, (data.frame(i)[None] / 255).astype(np.float32)),
        "ssim": metrics.ssim(image, target),
        "lpips": lpips(alexnet, jax.numpy.asarray(image), jax.numpy.asarray(target)),
    }
    return {name: float(value[0]) for name, value in values.items()}


def measure(landmarker: FaceLandmarker, image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Landmarks of the face that lies about where `near` does; NaN if there is none."""
    face = landmarker.landmark(image, roi_of_landmarks(near))
    return face.landmarks if face.score >= MIN_PRESENCE else np.full_like(near, np.nan)


def _baseline_figures(avatar: Avatar, frames: np.ndarray) -> dict[str, Figure]:
    """`psnr_head` of the mean training frame and of the nearest one."""
    data = avatar.dataset
    baselines = {
        "baseline_mean_frame": MeanFrame(data),
        "baseline_nearest_frame": NearestFrame(data),
    }
    figures = {}
    for name, baseline in baselines.items():
        values = []
        for i in frames:
            guess, mask = baseline(i)[None], data.head_mask(i)[None]
            values.append(metrics.psnr_masked(guess, data.target(i)[None] / 255.0, mask)[0])
        figures[name] = mean_figure(np.array(values), "no head pixels")
    return figures


def _mouth_figures(
    avatar: Avatar, measured: Measured, landmarker: FaceLandmarker
) -> dict[str, Figure]:
    """Does the sound drive the mouth, and does silence close it?"""
    data, frames = avatar.dataset, measured.frames
    true = mouth_opening(measured.true_landmarks)

    def openings(chosen: np.ndarray, heard: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        values = []
        for i, image in zip(chosen, draw(avatar, chosen, heard), strict=True):
            points = measure(landmarker, to_uint8(image), data.landmarks(i))
            values.append(float(mouth_opening(points)))
            tick()
        return np.array(values)

    offsets = metrics.shift_offsets(len(frames), data.fps)
    start, stop = data.splits["train"]
    spoken = np.linspace(start, stop - 1, min(TRAIN_FRAMES, stop - start)).astype(int)
    quiet = np.linspace(start, stop - 1, min(SILENT_FRAMES, stop - start)).astype(int)
    total = len(offsets) * len(frames) + len(spoken) + len(quiet)
    with progress(total, "evaluate: mouth", "frame") as bar:
        tick = lambda: bar.advance(0)
        shifted = [openings(frames, np.roll(frames, shift), tick) for shift in offsets]
        loud = openings(spoken, spoken, tick)
        hush = data.silence(len(quiet), avatar.config.model.window_frames)
        silent = openings(quiet, hush, tick)
    p95 = (
        metrics.shift_percentile(np.stack(shifted), true)
        if shifted
        else Figure(None, "the split is too short to shift its sound by 1 s")
    )
    if 0 < len(shifted) < metrics.SHIFT_RUNS:
        p95 = p95._replace(note=f"only {len(shifted)} shifts fit into the split")
    return {
        "lmd": mean_figure(
            metrics.lmd(measured.landmarks, measured.true_landmarks), "no face seen"
        ),
        "mouth_r": metrics.correlation(mouth_opening(measured.landmarks), true),
        "mouth_r_shift_p95": p95,
        "mouth_silence_percentile": metrics.silence_percentile(silent, loud),
    }


def _sync_figures(avatar: Avatar, measured: Measured) -> dict[str, Figure]:
    data, frames = avatar.dataset, measured.frames
    sound = read_audio(data.folder / "audio.wav")
    level = metrics.sound_energy(sound, SAMPLE_RATE, data.num_frames, data.fps)[frames]
    lag, confidence = metrics.sync_lag(mouth_opening(measured.landmarks), level)
    shut = lambda points: -eye_openness(points).mean(-1)
    blink = metrics.correlation(shut(measured.landmarks), shut(measured.true_landmarks))
    return {"sync_lag_frames": lag, "sync_conf": confidence, "blink_r": blink}


def _render_fps(avatar: Avatar, frames: np.ndarray, repeats: int = 5) -> float:
    """Frames per second of a stream, sound features given, result on the host; median."""
    drawn = frames[np.arange(MICRO_BATCH) % len(frames)]
    batch = MicroBatch(drawn, 0, avatar.dataset.drive(drawn, avatar.config.model.window_frames))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        list(fetch(dispatch(avatar, batch)))
        times.append(time.perf_counter() - began)
    return MICRO_BATCH / float(np.median(times))
