"""A trained avatar hears nobody: its mouth rests, and its eyes go on blinking.

A minute each of digital silence, of room noise at -60 dB of full scale and of music without a voice
(chords and drums, made up in `_silences`) goes the way of any speech, and the film is drawn with
the head held still at the clip's calmest pose, blinks as in any film. Of each:

  moves             standard deviation of the opening of the lips, percent of the same while the
                    held-out frames' sound is heard at the same pose. The opening is read straight
                    from the Gaussians: the distance of those around the upper inner lip from those
                    around the lower, before any camera. It has no noise of its own; how well it
                    tells what a viewer sees is said by
  seen_r            its correlation with the landmarks' opening over the held-out sound;
  moves_landmarks   the first by the landmark network on the pictures. It has the network's noise,
                    above all where lids move, and so cannot come near 0;
  percentile        where the median opening, by landmarks, falls among those of the held-out sound;
  blinks            how many are asked for, and in how many the lids are seen to shut.

Claim: moves is under 1 percent for silence and noise; music leaves the mouth near rest.

    python -m experiments.stillness RUN_DIR [RUN_DIR ...] [--seconds 60] [--tiny]

adds one case per (video, preset, body, seed, sound) to `results/stillness.json`.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import cKDTree

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import num_video_frames, pad_batch, to_uint8
from egs_jax.avatar.drawing import MICRO_BATCH
from egs_jax.avatar.drive import blinks, compose
from egs_jax.avatar.look import Look
from egs_jax.avatar.precomputed import Prepared
from egs_jax.config import Config
from egs_jax.evaluation import metrics
from egs_jax.evaluation.measures import landmarks_near
from egs_jax.evaluation.metrics import Figure
from egs_jax.evaluation.renders import drawn_frames, micro_batches
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import eye_openness, mouth_opening
from egs_jax.media.clock import FPS
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.progress import progress
from egs_jax.types import Drive
from experiments._runs import add_case, parsed, rounded, run_main, run_of
from experiments._silences import SOUNDS

NAME = "stillness"
UPPER, LOWER = (82, 13, 312), (87, 14, 317)
"""Landmarks of the inner lips that face each other."""
AROUND = 8
"""Gaussians around each of them, the nearest."""
SHUT_LIDS = 0.6
"""Lids are shut where they are open less than this share of their median."""
TINY_FRAMES = 8
Signal = Float[np.ndarray, " T"]


class Seen(NamedTuple):
    """What T drawn frames show."""

    gap: Signal
    """Distance of the lips by the Gaussians, head units."""
    opening: Signal
    """By landmarks; NaN where no face was seen."""
    lids: Signal
    """How far the eyes are open, by landmarks; NaN likewise."""


def main(argv: list[str] | None = None) -> Path:
    """Measure runs; returns the results file."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--seconds", type=float, default=60.0, help="of every sound")
    arguments = parsed(parser, argv, figures=False)
    if not arguments.seconds > 0:
        raise InputError(f"--seconds: got {arguments.seconds}, expected more than 0")
    seconds = TINY_FRAMES / FPS if arguments.tiny else arguments.seconds
    for run_dir in arguments.run_dirs:
        avatar = dataclasses.replace(Avatar.load(run_dir, exact=True), look=Look(poses="still"))
        for case in cases_of(avatar, seconds, TINY_FRAMES if arguments.tiny else None):
            print(case, flush=True)
            add_case(NAME, rounded(case), _key, arguments.out)
    return arguments.out / f"{NAME}.json"


def _key(case: dict) -> tuple:
    return tuple(case[name] for name in ("video", "preset", "body", "seed", "sound"))


def cases_of(avatar: Avatar, seconds: float, most: int | None) -> Iterator[dict[str, Any]]:
    """Measure an avatar that stands still under every sound without a voice.

    Args:
      avatar: Its poses are "still".
      seconds: Of every sound.
      most: Held-out frames that are heard; None: all.
    """
    data, landmarker = avatar.dataset, FaceLandmarker()
    frames = data.frames_of("val")[:most]
    spoken = seen(avatar, of_the_clip(avatar, frames), len(frames), landmarker, "held-out sound")
    for name, make in SOUNDS.items():
        samples = make(seconds)
        rows = avatar.scene.hear(samples)
        count = num_video_frames(len(samples))
        still = seen(avatar, of_a_film(avatar, rows, count), count, landmarker, name)
        values, notes = metrics.report(figures_of(still, spoken))
        asked, shut = blinks_of(avatar, still.lids)
        yield {
            **run_of(avatar),
            "sound": name,
            "seconds": seconds,
            "frames_held_out": len(frames),
            **values,
            "blinks": asked,
            "blinks_seen": shut,
            "notes": notes,
        }


def of_a_film(avatar: Avatar, rows: np.ndarray, count: int) -> Iterator[Drive]:
    """Drive `count` frames of a film by rows of sound features, as `render` does."""
    config = avatar.config
    for part in micro_batches(np.arange(count)):
        yield compose(
            avatar.scene, avatar.path, rows, 0, part, config.model.window_frames, config.seed
        )


def of_the_clip(avatar: Avatar, frames: Int[np.ndarray, " T"]) -> Iterator[Drive]:
    """Let the clip's own `frames` be heard at the pose of the film, and blink as it does."""
    data, config = avatar.dataset, avatar.config
    for places, part in micro_batches((np.arange(len(frames)), frames)):
        windows = data.audio_windows(part, config.model.window_frames)
        still = np.full(len(part), data.still_frame)
        yield data.driven_by(windows, blinks(config.seed, places), still)


def seen(
    avatar: Avatar, drives: Iterator[Drive], count: int, landmarker: FaceLandmarker, what: str
) -> Seen:
    """Draw `count` frames of a head that stands still; read its lips and lids."""
    data = avatar.dataset
    near, lips = data.landmarks(data.still_frame), around_the_lips(avatar)
    gaps, openings, lids = [], [], []
    with progress(count, f"{NAME}: {what}", "frame") as bar:
        for drive in drives:
            padded = pad_batch(drive, MICRO_BATCH)
            gap = _gap(avatar.config.program, avatar.prepared, padded, *lips)
            gaps.append(np.asarray(gap, np.float64)[: len(drive.eyes)])
            for rgb, _ in drawn_frames(avatar, [drive]):
                points = landmarks_near(landmarker, to_uint8(rgb), near)
                openings.append(float(mouth_opening(points)))
                lids.append(float(eye_openness(points).mean()))
                bar.advance(0)
    return Seen(np.concatenate(gaps), np.array(openings), np.array(lids))


def around_the_lips(avatar: Avatar) -> tuple[Int[np.ndarray, "3 8"], Int[np.ndarray, "3 8"]]:
    """Return the live Gaussians nearest to the upper and to the lower landmarks."""
    means = np.asarray(avatar.prepared.canonical.means)
    shape = np.asarray(avatar.dataset.arrays["mean_shape"])
    _, nearest = cKDTree(means).query(shape[[*UPPER, *LOWER]], k=AROUND)
    return nearest[:3], nearest[3:]


@functools.partial(jax.jit, static_argnums=0)
def _gap(config: Config, kept: Prepared, drive: Drive, upper: Array, lower: Array) -> Array:
    """Mean distance of facing groups of Gaussians, in the head's own space [B]."""
    means = prepared.move(config, kept, drive).means
    apart = means[:, upper].mean(axis=2) - means[:, lower].mean(axis=2)  # [B, 3, 3]
    return jnp.linalg.norm(apart, axis=-1).mean(axis=1)


def figures_of(still: Seen, spoken: Seen) -> dict[str, Figure]:
    """Return every figure of a case but its blinks (see the top of the file)."""
    return {
        "moves_percent": moves(still.gap, spoken.gap),
        "seen_r": metrics.correlation(spoken.opening, spoken.gap),
        "moves_landmarks_percent": moves(still.opening, spoken.opening),
        "percentile": metrics.silence_percentile(still.opening, spoken.opening),
    }


def moves(still: Signal, spoken: Signal) -> Figure:
    """Return the standard deviation of one signal as percent of that of the other."""
    still, spoken = still[np.isfinite(still)], spoken[np.isfinite(spoken)]
    if not (still.size and spoken.size):
        return Figure(None, "no face found without a voice, or in the held-out sound")
    spread = float(np.std(spoken))
    if spread <= 1e-6 * float(np.abs(spoken).mean()):
        return Figure(None, "the held-out sound does not move the mouth")
    return Figure(100.0 * float(np.std(still)) / spread)


def blinks_of(avatar: Avatar, lids: Signal) -> tuple[int, int]:
    """Return how many blinks a film of so many frames has, and in how many the lids shut."""
    asked = np.flatnonzero(blinks(avatar.config.seed, np.arange(len(lids))) == 1.0)
    if not np.isfinite(lids).any():
        return len(asked), 0
    shut = lids < SHUT_LIDS * np.nanmedian(lids)
    return len(asked), sum(bool(shut[max(peak - 1, 0) : peak + 2].any()) for peak in asked)


if __name__ == "__main__":
    run_main(main)
