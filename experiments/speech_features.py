"""What each kind of sound features costs, and how much of a mouth's opening a line tells from it.

Claim: which kind of `--audio-features` is the better default is not decided by looking at avatars
alone: here are what each costs on this machine, and the ridge regression of the lips' opening on
the rows that a frame hears (2 i - 8 ... 2 i + 7), in closed form. Its regularization is chosen on
training frames only, by holding out five blocks of them in turn.

    python -m experiments.speech_features DATASET [DATASET ...] [--kinds KIND ...]
        [--espeak FOLDER] [--tiny]

adds to `results/speech_features.json` a case for each dataset and kind, one a kind for its cost
and, with --espeak (`_espeak`), one for each language and kind. Speech of a robot in eight languages
drives the lines that were learned on the datasets; compared is what its phonemes ask for: which way
it goes, no measure of quality. Three CPU minutes. `--tiny` takes mel alone (tests).
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import (
    AUDIO_FEATURES,
    FeatureKind,
    FeatureStream,
    extract_features,
    silence_features,
)
from egs_jax.speech.frame_windows import feature_windows
from egs_jax.speech.layout import layout_of
from egs_jax.speech.level import SPEECH_LOUDNESS, SpeechLevel
from experiments import _espeak
from experiments._runs import add_case, parsed, rounded, run_main

NAME = "speech_features"
TIMED_SECONDS = 10
BLOCK_FRAMES = 5 * FPS
STRENGTHS = 10.0 ** np.arange(-3, 3.5, 0.5)
"""Of the regularization, in units of the mean of the kernel's diagonal."""


class Line(NamedTuple):
    """A ridge regression in its dual form, on standardized inputs."""

    inputs: np.ndarray
    """Training windows, standardized [N, P]."""
    weights: np.ndarray
    """[N]."""
    mean: np.ndarray
    scale: np.ndarray
    offset: float
    strength: float

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Tell the opening from windows [B, P]."""
        known = (windows - self.mean) / self.scale @ self.inputs.T / self.inputs.shape[1]
        return known @ self.weights + self.offset


def main(argv: list[str] | None = None) -> Path:
    """Measure; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--kinds", nargs="+", choices=AUDIO_FEATURES, default=[*AUDIO_FEATURES])
    parser.add_argument("--espeak", type=Path, metavar="FOLDER")
    arguments = parsed(parser, argv, figures=False)
    kinds = ["mel"] if arguments.tiny else arguments.kinds
    clips = [Dataset.open(folder) for folder in arguments.datasets]
    for clip in clips:
        if len(clip.stretches) > 1:
            raise InputError(f"{clip.folder}: has several stretches; give clips without a cut")
        if clip.num_frames < 2 * BLOCK_FRAMES:
            least = 2 * BLOCK_FRAMES // FPS
            raise InputError(f"{clip.folder}: is too short; give clips of {least} s or more")
    espeak = _espeak.Espeak(arguments.espeak) if arguments.espeak else None
    sound = np.resize(read_audio(clips[0].folder / "audio.wav"), TIMED_SECONDS * SAMPLE_RATE)
    for kind in kinds:
        _add(cost(kind, sound), arguments.out)
        lines = {}
        for clip in clips:
            case, lines[clip.folder.name] = held_out(clip, kind)
            _add(case, arguments.out)
        for voice, text in _espeak.TEXTS.items() if espeak else ():
            _add(in_language(voice, espeak.speak(voice, text), kind, lines), arguments.out)
    return arguments.out / f"{NAME}.json"


def _add(case: dict, folder: Path) -> None:
    """Print and keep a case, in the place of the same one before."""
    print(case, flush=True)
    key = lambda case: (case["series"], case["kind"], case.get("clip"), case.get("voice"))
    add_case(NAME, case, key, folder)


def cost(kind: FeatureKind, sound: np.ndarray) -> dict:
    """Time one kind in a process of its own, nothing compiled before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return {"series": "cost", "kind": kind} | rounded(pool.submit(_cost, kind, sound).result())


def _cost(kind: FeatureKind, sound: np.ndarray) -> dict[str, float]:
    """Return seconds, also those of this process' CPUs, a second of sound."""
    SpeechLevel().push(sound[:SAMPLE_RATE])  # compiles what tells where somebody speaks
    began, spent = time.perf_counter(), time.process_time()
    FeatureStream(kind, loudness=SPEECH_LOUDNESS)
    timed = {
        "first_call_s": time.perf_counter() - began,
        "first_call_cpu_s": time.process_time() - spent,
    }
    seconds = len(sound) / SAMPLE_RATE
    for name, size in (("file", len(sound)), ("live", layout_of(kind).hop_samples)):
        stream = FeatureStream(kind, loudness=SPEECH_LOUDNESS)
        began, spent = time.perf_counter(), time.process_time()
        for start in range(0, len(sound), size):
            stream.push(sound[start : start + size])
        stream.finish()
        timed[f"{name}_s_per_s"] = (time.perf_counter() - began) / seconds
        timed[f"{name}_cpu_s_per_s"] = (time.process_time() - spent) / seconds
    return timed


def held_out(clip: Dataset, kind: FeatureKind) -> tuple[dict, Line]:
    """Compare told with true openings.

    Returns:
      The case and the line learned on the training frames. `r` is that of the line on held-out
      frames; `r_blocks` of every block of 5 s of the whole clip, told by the rest of it (with the
      strength chosen on the training frames).
    """
    opening = np.asarray(clip.arrays["mouth_opening"], np.float64)
    rows = extract_features(
        read_audio(clip.folder / "audio.wav"), kind,
        loudness=clip.meta["audio_features"]["loudness"],
    )  # fmt: skip
    train, val = clip.train_frames, clip.frames_of("val")
    line = fit(_windows(rows, kind, train), opening[train])
    every = np.union1d(train, val)
    told = _told_by_the_rest(_windows(rows, kind, every), opening[every], line.strength)
    case = {
        "series": "held out", "clip": clip.folder.name, "kind": kind, "frames": len(val),
        "r": _correlation(line(_windows(rows, kind, val)), opening[val]),
        "r_blocks": _correlation(told, opening[every]), "strength": float(line.strength),
    }  # fmt: skip
    return rounded(case, 5), line


def _told_by_the_rest(windows: np.ndarray, opening: np.ndarray, strength: float) -> np.ndarray:
    """Return the openings of every block of 5 s as all other frames tell them."""
    inputs = (windows - windows.mean(0)) / (windows.std(0) + 1e-4)
    kernel = (inputs @ inputs.T / inputs.shape[1]).astype(np.float64)
    ridge, told = strength * kernel.diagonal().mean(), np.zeros(len(opening))
    for block in np.array_split(np.arange(len(opening)), round(len(opening) / BLOCK_FRAMES)):
        rest = np.setdiff1d(np.arange(len(opening)), block)
        solved = np.linalg.solve(
            kernel[np.ix_(rest, rest)] + ridge * np.eye(len(rest)),
            opening[rest] - opening[rest].mean(),
        )
        told[block] = kernel[np.ix_(block, rest)] @ solved + opening[rest].mean()
    return told


def _windows(rows: np.ndarray, kind: FeatureKind, frames: np.ndarray) -> np.ndarray:
    """Return what each frame hears as one vector, float32 [B, P]."""
    cut = feature_windows(rows, silence_features(kind), frames, window_frames=1)
    return np.asarray(cut).reshape(len(frames), -1)


def fit(windows: np.ndarray, opening: np.ndarray) -> Line:
    """Learn openings from windows [N, P], by the strength with the least error on left-out blocks.

    The weights solve (K + strength * mean diagonal of K * I) w = y, with K of inner products.
    """
    mean, scale = windows.mean(0), windows.std(0) + 1e-4
    inputs = (windows - mean) / scale
    kernel = (inputs @ inputs.T / inputs.shape[1]).astype(np.float64)
    blocks = np.array_split(np.arange(len(opening)), 5)
    errors = np.zeros(len(STRENGTHS))
    for block in blocks:
        rest = np.setdiff1d(np.arange(len(opening)), block)
        values, vectors = np.linalg.eigh(kernel[np.ix_(rest, rest)])
        offset = opening[rest].mean()
        seen = vectors.T @ (opening[rest] - offset)
        for k, strength in enumerate(STRENGTHS):
            weights = vectors @ (seen / (values + strength * kernel.diagonal().mean()))
            told = kernel[np.ix_(block, rest)] @ weights + offset
            errors[k] += np.square(told - opening[block]).sum()
    strength = STRENGTHS[errors.argmin()]
    ridge = strength * kernel.diagonal().mean() * np.eye(len(opening))
    weights = np.linalg.solve(kernel + ridge, opening - opening.mean())
    return Line(inputs, weights, mean, scale, opening.mean(), strength)


def in_language(
    voice: str, spoken: _espeak.Spoken, kind: FeatureKind, lines: dict[str, Line]
) -> dict:
    """Compare what lines tell of a robot's speech with what its phonemes ask for.

    `r` is the correlation with the phonemes' opening, by clip; `vowels_wider` is how often a frame
    of a vowel is told wider than one of m, b or p (0.5 by chance).
    """
    rows = extract_features(spoken.samples, kind, loudness=SPEECH_LOUDNESS)
    frames = np.arange(len(rows) // 2)
    said = _espeak.letters(spoken.phonemes, len(frames))
    shut, vowel = (
        np.array([bool(s) and s in group for s in said])
        for group in (_espeak.LIPS_SHUT, _espeak.VOWELS)
    )
    case: dict = {"series": "language", "voice": voice, "kind": kind, "r": {}, "vowels_wider": {}}
    windows = _windows(rows, kind, frames)
    for name, line in lines.items():
        told = line(windows)
        case["r"][name] = _correlation(told, _espeak.openings(said))
        case["vowels_wider"][name] = float((told[vowel][:, None] > told[shut][None]).mean())
    return rounded(case)


def _correlation(told: np.ndarray, true: np.ndarray) -> float:
    return float(np.corrcoef(told, true)[0, 1])


if __name__ == "__main__":
    run_main(main)
