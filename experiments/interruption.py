"""What a mouth does when its speech is interrupted: no jump, and at rest in time.

Claim: at an interruption and after it the opening of the mouth never changes more from one frame to
the next than it does in the clip, and by the stated latency the mouth is at rest. A speech is
interrupted at many frames while the head stands still, and silence follows. Measured: the opening
by landmarks of the pictures, and the gap of the lips by the Gaussians themselves, which has no
noise of a landmarker; steps at the seam and in the second after it, beside those of the same speech
uninterrupted and of the clip's own landmarks; how far from rest the mouth is at the stated latency
and in the half second after it, as a share of how far it opens (its 95th percentile less rest).

    python -m experiments.interruption RUN_DIR SPEECH.wav [--times 12] [--tiny]

adds a row to `results/interruption.json`; about two minutes on a CPU.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.look import Look
from egs_jax.avatar.speech_batches import SpeechBatches, SpokenBatch, composed, latency
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from egs_jax.types import Drive
from experiments._runs import add_case, parsed, rounded, run_main, run_of
from experiments.stillness import Seen, seen

NAME = "interruption"
REST = 0.5
"""Seconds after the stated latency for which the mouth is watched."""


def drives_of(avatar: Avatar, batches: list[SpokenBatch]) -> Iterator[Drive]:
    """Yield what drives the frames of batches that count."""
    for batch in batches:
        made = composed(avatar, batch)
        places = slice(made.first, made.first + len(made.frames))
        yield Drive(**{
            field.name: None if (value := getattr(made.drive, field.name)) is None
            else value[places] for field in dataclasses.fields(Drive)
        })  # fmt: skip


def watched(
    avatar: Avatar, batches: list[SpokenBatch], landmarker: FaceLandmarker, what: str
) -> Seen:
    """Draw all frames of batches that count, and read the lips."""
    count = sum(len(batch.frames) for batch in batches)
    return seen(avatar, drives_of(avatar, batches), count, landmarker, what)


def after_interruption(
    avatar: Avatar, batches: list[SpokenBatch], number: int
) -> list[SpokenBatch]:
    """Return the batches of silence that follow if the speech is interrupted before a frame."""
    given = next(batch for batch in batches if number - 1 in batch.frames)
    after = SpeechBatches.after(avatar, given, number)
    silence = round((latency(avatar) + REST) * SAMPLE_RATE)
    return after.push(np.zeros(after.silent_samples + silence, np.float32))


def steps(values: np.ndarray) -> np.ndarray:
    """Return how much values change from one frame to the next, where both are known."""
    found = np.abs(np.diff(values))
    return found[np.isfinite(found)]


def largest(values: np.ndarray) -> float | None:
    """Return the largest value that is known; None: there is none."""
    known = values[np.isfinite(values)]
    return float(known.max()) if known.size else None


def measured(avatar: Avatar, speech: np.ndarray, times: int) -> dict:
    """Interrupt a speech at `times` frames."""
    landmarker, batches = FaceLandmarker(), SpeechBatches(avatar)
    spoken = batches.push(speech) + batches.finish()
    whole = watched(avatar, spoken, landmarker, "uninterrupted")
    numbers = np.unique(np.linspace(1, len(whole.gap) - 1, times + 1, dtype=int)[:-1])
    followed = [
        watched(avatar, after_interruption(avatar, spoken, number), landmarker, f"frame {number}")
        for number in numbers.tolist()
    ]
    in_time = round(latency(avatar) * FPS) - 1  # from the next frame on
    clip = avatar.dataset.arrays["mouth_opening"][avatar.dataset.train_frames]
    case = {
        **run_of(avatar),
        "interruptions": len(numbers),
        "latency_s": latency(avatar),
        "opening_clip_step_max": largest(steps(clip)),
    }
    for name in ("gap", "opening"):
        usual, after = getattr(whole, name), [getattr(part, name) for part in followed]
        pairs = zip(numbers, after, strict=True)
        joined = [np.concatenate([usual[n - 1 : n], part]) for n, part in pairs]
        last = np.stack([part[-5:] for part in after])
        seen_last, seen_usual = last[np.isfinite(last)], usual[np.isfinite(usual)]
        rest = np.median(seen_last) if seen_last.size else np.nan
        opens = (np.percentile(seen_usual, 95) if seen_usual.size else np.nan) - rest
        away = np.stack([np.abs(part[in_time:] - rest) / (opens or np.nan) for part in after])
        case |= {
            f"{name}_usual_step_max": largest(steps(usual)),
            f"{name}_seam_step_max": largest(np.concatenate([steps(j[:2]) for j in joined])),
            f"{name}_later_step_max": largest(np.concatenate([steps(j[1:]) for j in joined])),
            f"{name}_from_rest_when_due": largest(away[:, 0]),
            f"{name}_from_rest_afterwards": largest(away[:, 1:]),
        }
    return case


def main(argv: list[str] | None = None) -> Path:
    """Run the measurement; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("speech", type=Path)
    parser.add_argument("--times", type=int, default=12)
    arguments = parsed(parser, argv, figures=False)
    avatar = dataclasses.replace(Avatar.load(arguments.run_dir), look=Look(poses="still"))
    case = measured(avatar, read_audio(arguments.speech), 2 if arguments.tiny else arguments.times)
    print(case, flush=True)
    key = lambda case: tuple(case[name] for name in ("video", "preset", "body", "seed"))
    add_case(NAME, rounded(case, 5), key, arguments.out)
    return arguments.out / f"{NAME}.json"


if __name__ == "__main__":
    run_main(main)
