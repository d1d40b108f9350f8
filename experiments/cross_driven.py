"""A trained head under other people's speech and other head poses: what needs no true frames.

Claim of the paper: the lips follow speech that was never heard with this face. Its numbers
(Sync-C, Sync-E, AUE of SyncNet and OpenFace) could not be recovered and are not comparable with
these, which need no network but the landmarks':

  sync         lag and confidence of the lip opening against the sound's energy, beside the lag of
               the true mouth in the own clip (true mouths open a little before they are loud);
  mouth_sound  correlation of the two at that true lag, beside the 95th percentile of the same with
               the energy shifted by at least a second more (above it, the mouth follows this
               sound) and the true mouth's own; `gap` is the first less the last;
  silence      where the opening under digital silence falls among those of the speech, percent;
  jitter       rms of the image's motion less the posed head's, pixels;
  lpips        of a render to the training frame with the nearest landmarks, shifted to fit, beside
               the same of true held-out frames: far above it, the picture has broken.

    python -m experiments.cross_driven RUN_DIR SPEECH [SPEECH ...] [--more RUN_DIR ...]
        [--poses DATASET ...] [--seconds 20] [--figure FILE.png] [--tiny]

`--more` runs speak the same; a clip's own film is no foreign speech, and its run passes it over.
Every speech is spoken with the poses of the run's own training clip and with those of each other
dataset: their motion about a frame at rest, laid onto a frame at rest of the own clip, whose torso
then stays still. Four cases of 2 s at 96 px take 20 s on two CPU cores. Adds one case per (video,
preset, body, seed, speech, poses) to `results/cross_driven.json`. The contact sheet shows a
person's face, so it goes into the run's folder unless --figure names another place.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import num_video_frames, to_uint8
from egs_jax.avatar.drive import compose
from egs_jax.avatar.poses import PosePath, back_and_forth
from egs_jax.data.dataset import Dataset
from egs_jax.data.statistics import calmest
from egs_jax.data.stretches import longest
from egs_jax.evaluation import metrics
from egs_jax.evaluation.baselines import NearestFrame
from egs_jax.evaluation.measures import landmarks_near
from egs_jax.evaluation.metrics import Figure, mean_figure
from egs_jax.evaluation.renders import drawn_frames, micro_batches
from egs_jax.evaluation.signals import SILENT_FRAMES
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import mouth_opening
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.preprocess.track_report import jitter_rms
from egs_jax.preprocess.tracking import HeadTrack
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import InputError
from egs_jax.training.perceptual import load_perceptual, lpips
from egs_jax.types import Drive
from experiments._runs import add_case, figure, parsed, rounded, run_main

NAME = "cross_driven"
LPIPS_FRAMES = 24
SHEET = 8
"""Frames of a case on the contact sheet."""
Driving = Callable[[np.ndarray], Drive]
"""A function that gives what drives frames (int [B]) of a speech."""


class Spoken(NamedTuple):
    """The renders of a case and what was seen on them."""

    images: np.ndarray
    """uint8 [T,H,Wd,3]."""
    landmarks: np.ndarray
    """Pixels [T,478,3]; NaN where no face was seen."""
    track: HeadTrack
    """The poses that were asked for."""


def main(argv: list[str] | None = None) -> Path:
    """Measure one run; returns the contact sheet."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("speeches", type=Path, nargs="+", metavar="SPEECH")
    parser.add_argument("--more", type=Path, nargs="+", default=[], metavar="RUN_DIR")
    parser.add_argument("--poses", type=Path, nargs="+", default=[], metavar="DATASET")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each speech, at most")
    parser.add_argument("--figure", type=Path, metavar="FILE.png")
    arguments = parsed(parser, argv, figures=False)
    if not arguments.seconds > 0:
        raise InputError(f"--seconds: got {arguments.seconds}, expected more than 0")
    runs = [arguments.run_dir, *arguments.more]
    if arguments.figure and len(runs) > 1:
        raise InputError(f"--figure: one file for {len(runs)} runs; leave it out")
    poses = [None, *map(Dataset.open, arguments.poses)]
    seconds = 10 / FPS if arguments.tiny else arguments.seconds
    for run_dir in runs:
        rows = []
        avatar = Avatar.load(run_dir, exact=True)
        for speech in foreign(arguments.speeches, avatar.dataset):
            samples = read_audio(speech)[: round(seconds * SAMPLE_RATE)]
            for other in poses:
                case, spoken = run_case(avatar, speech, samples, other)
                add_case(NAME, rounded(case), _key, arguments.out)
                rows.append((f"{case['speech']}\nposes: {case['poses']}", spoken.images))
        path = arguments.figure or run_dir / f"{NAME}.png"
        contact_sheet(rows, path)
    return path


def foreign(speeches: list[Path], data: Dataset) -> list[Path]:
    """Return the speeches that are not the clip's own film.

    Raises:
      InputError: if none is left.
    """
    own = data.meta["source"]["sha256"]
    left = [speech for speech in speeches if not speech.is_file() or file_sha256(speech) != own]
    if not left:
        raise InputError(f"{', '.join(map(str, speeches))}: the clip's own film; name another's")
    return left


def _key(case: dict) -> tuple:
    body = case.get("body", "head")  # none is said of runs before there were persons
    return (body, *(case[name] for name in ("video", "preset", "seed", "speech", "poses")))


def _name(dataset: Dataset) -> str:
    return Path(dataset.meta["source"]["name"]).stem


def run_case(
    avatar: Avatar, speech: Path, samples: np.ndarray, other: Dataset | None
) -> tuple[dict[str, Any], Spoken]:
    """Speak `samples` (16 kHz) with the poses of `other`, or of the own training clip."""
    count = num_video_frames(len(samples))
    rows = avatar.scene.hear(samples)
    driving = driving_of(avatar, rows, other)
    landmarker = FaceLandmarker()
    spoken = speak(avatar, driving, np.arange(count), landmarker)
    quiet = np.linspace(0, count - 1, min(SILENT_FRAMES, count)).astype(int)
    hush = speak(avatar, silenced(avatar, driving), quiet, landmarker)
    values, notes = metrics.report(figures_of(avatar, spoken, hush, samples))
    case = {
        "video": _name(avatar.dataset),
        "preset": avatar.config.preset,
        "body": avatar.dataset.body,
        "seed": avatar.config.seed,
        "speech": speech.stem,
        "poses": "own training clip" if other is None else _name(other),
        "frames": count,
        "width": avatar.dataset.width,
        **values,
        "notes": notes,
    }
    print(case, flush=True)
    return case, spoken


def driving_of(avatar: Avatar, rows: np.ndarray, other: Dataset | None) -> Driving:
    """Drive a speech of feature `rows` by the poses of `other`, or of the own training clip."""
    data, config = avatar.dataset, avatar.config
    path = avatar.path if other is None else borrowed_path(data, other)
    return lambda frames: compose(
        avatar.scene, path, rows, 0, frames, config.model.window_frames, config.seed
    )  # fmt: skip


def borrowed_path(data: Dataset, other: Dataset) -> PosePath:
    """Play another clip's poses back and forth; a person's body follows, a head's is at rest."""
    rest = data.still_frame
    start, stop = longest(other.stretches, (0, other.num_frames))  # no path leads over a cut
    lent = np.asarray(other.arrays["viewmats"][start:stop])
    viewmats = borrowed(data.arrays["viewmats"][rest], lent)
    viewmats = viewmats[back_and_forth(0, len(viewmats))]
    bodies = data.body_model.told(viewmats) if data.body == "person" else None
    return PosePath(viewmats, bodies, np.full(len(viewmats), rest))


def silenced(avatar: Avatar, driving: Driving) -> Driving:
    """Keep poses and blinks, and hear digital silence."""
    hush = lambda n: avatar.dataset.silence(n, avatar.config.model.window_frames)
    return lambda frames: driving(frames).replace(audio_windows=hush(len(frames)))


def borrowed(rest: np.ndarray, viewmats: np.ndarray) -> np.ndarray:
    """Lay another head's motion about its calmest frame onto the own pose `rest` [4,4].

    A head's world is the same in every dataset (origin in the head, +-0.8 from chin to crown), so
    motion in it can be lent: view = rest (calm^-1 view_other).

    Args:
      rest: The own world-to-camera transform that the calmest frame gets.
      viewmats: The other clip's [T,4,4].

    Returns:
      World-to-camera transforms, float32 [T,4,4].
    """
    calm = viewmats[calmest(viewmats)].astype(np.float64)
    return np.float32(rest @ np.linalg.inv(calm) @ viewmats)


def speak(
    avatar: Avatar, driving: Driving, frames: np.ndarray, landmarker: FaceLandmarker
) -> Spoken:
    """Draw `frames` of a speech and find their landmarks where the posed head must be."""
    drives = [driving(part) for part in micro_batches(frames)]
    images = [to_uint8(rgb) for rgb, _ in drawn_frames(avatar, drives)]
    shape = np.asarray(avatar.dataset.arrays["mean_shape"])
    viewmats = np.concatenate([drive.viewmats for drive in drives])
    track = HeadTrack(viewmats, avatar.dataset.intrinsics, shape)
    near = track.project(shape)  # [T, 478, 2]
    near = np.concatenate([near, np.zeros_like(near[..., :1])], axis=-1).astype(np.float32)
    points = np.stack(
        [landmarks_near(landmarker, *pair) for pair in zip(images, near, strict=True)]
    )
    return Spoken(np.stack(images), points, track)


def figures_of(
    avatar: Avatar, spoken: Spoken, hush: Spoken, samples: np.ndarray
) -> dict[str, Figure]:
    """Return every figure of a case (see the top of the file)."""
    opening = mouth_opening(spoken.landmarks)
    energy = metrics.sound_energy(samples, SAMPLE_RATE, len(opening), float(FPS))
    lag, confidence = metrics.sync_lag(opening, energy)
    true_lag, true_confidence, true_r = true_mouth(avatar.dataset)
    energy = np.roll(energy, int(true_lag.value or 0))
    offsets = metrics.shift_offsets(len(opening), float(FPS))
    shifted = Figure(None, "the speech is too short to shift its sound by 1 s")
    if len(offsets):
        shifted = metrics.shift_percentile(
            np.stack([np.roll(energy, offset) for offset in offsets]), opening
        )
    r = metrics.correlation(opening, energy)
    missing = next((figure.note for figure in (r, true_r) if figure.value is None), None)
    return {
        "sync_lag_frames": lag,
        "sync_conf": confidence,
        "sync_lag_true_frames": true_lag,
        "sync_conf_true": true_confidence,
        "mouth_sound_r_true": true_r,
        "mouth_sound_r": r,
        "mouth_sound_r_gap": Figure(None, missing) if missing else Figure(r.value - true_r.value),
        "mouth_sound_r_shift_p95": shifted,
        "mouth_silence_percentile": metrics.silence_percentile(
            mouth_opening(hush.landmarks), opening
        ),
        "jitter_px": jitter(spoken),
        **likeness(avatar, spoken),
    }


def true_mouth(dataset: Dataset) -> tuple[Figure, Figure, Figure]:
    """Find the lag of the clip's true mouth behind the sound, how sure it is, and r there."""
    opening = np.float64(dataset.arrays["mouth_opening"])
    sound = read_audio(dataset.folder / "audio.wav")
    energy = metrics.sound_energy(sound, SAMPLE_RATE, len(opening), dataset.fps)
    lag, confidence = metrics.sync_lag(opening, energy)
    r = metrics.correlation(opening, np.roll(energy, int(lag.value or 0)))
    return lag, confidence, r


def jitter(spoken: Spoken) -> Figure:
    """Return `jitter_rms` of the renders as one body."""
    valid = np.isfinite(spoken.landmarks).all(axis=(1, 2))
    if not np.any(valid[1:] & valid[:-1]):
        return Figure(None, "no two consecutive renders show a face")
    seen = jitter_rms(spoken.images, spoken.track, spoken.landmarks, valid).head_posed
    return Figure(seen) if np.isfinite(seen) else Figure(None, "the optical flow found no point")


def likeness(avatar: Avatar, spoken: Spoken) -> dict[str, Figure]:
    """Return LPIPS of renders, and of true held-out frames, to their nearest training frames."""
    data = avatar.dataset
    nearest, alexnet = NearestFrame(data), load_perceptual("alexnet")
    held_out = data.frames_of("val")

    def distance(image: np.ndarray, landmarks: np.ndarray) -> float:
        if not np.isfinite(landmarks).all():
            return np.nan
        pair = (np.float32(image[None]) / 255, nearest.guess(landmarks)[None])
        return float(lpips(alexnet, *map(jnp.asarray, pair))[0])

    some = lambda n: np.linspace(0, n - 1, min(LPIPS_FRAMES, n)).astype(int)
    rendered = [distance(spoken.images[k], spoken.landmarks[k]) for k in some(len(spoken.images))]
    true = [distance(data.target(i), data.landmarks(i)) for i in held_out[some(len(held_out))]]
    return {
        "lpips_nearest": mean_figure(np.array(rendered), "no face found"),
        "lpips_nearest_true": mean_figure(np.array(true), "no face found"),
    }


def contact_sheet(rows: list[tuple[str, np.ndarray]], path: Path) -> None:
    """Draw a row a case, its frames evenly spread over the speech."""
    with figure(path, len(rows), SHEET, (1.5 * SHEET, 1.65 * len(rows))) as axes:
        for line, (title, images) in zip(axes, rows, strict=True):
            for axis, k in zip(line, np.linspace(0, len(images) - 1, SHEET), strict=True):
                axis.imshow(images[round(k)])
                axis.set_xticks([])
                axis.set_yticks([])
                axis.set_title(f"{round(k) / FPS:.1f} s", fontsize=6)
            line[0].set_ylabel(title, fontsize=6)


if __name__ == "__main__":
    run_main(main)
