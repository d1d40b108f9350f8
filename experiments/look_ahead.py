"""Look-ahead against how well sound tells the mouth, in closed form, and what the features cost.

Question: what is lost where a frame is drawn 0.40 s after its own time. For every layout of
windows (`egs_jax.speech.layout`) features are made of a dataset's sound as training and a stream
make them, and a ridge regression tells opening and width of the mouth from the window of rows that
a frame hears. Its one setting is chosen by cross-validation within the training frames (six blocks,
half a second left out beside the one that is told). Reported: correlation with the true mouth over
the held-out frames, and over the training frames as the cross-validation told them, which are more;
CPU seconds per second of sound, of a file and of a stream in chunks of 20 ms.

What is fair: all layouts have the same frames, folds and settings to choose from. What is not: a
ridge is no avatar; `self_reconstruction` of a dataset that is laid out anew (--make) is the judge.

    python -m experiments.look_ahead DATASET... [--kinds whisper mel]
    python -m experiments.look_ahead DATASET --make FOLDER --look-ahead 0.4

adds rows to `results/look_ahead.json`; about two minutes of one core a minute of sound.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from egs_jax.data.dataset import Dataset
from egs_jax.data.folder import FILES
from egs_jax.face.mesh import mouth_width
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import FeatureStream, extract_features, silence_features
from egs_jax.speech.layout import (
    ENTRY_ROWS,
    FRAME_ROWS,
    LAYOUTS,
    WINDOW_FRAMES,
    Layout,
    layout_of,
    told_look_ahead,
)
from experiments._runs import add_case, parsed, rounded, run_main

NAME = "look_ahead"
FOLDS, APART = 6, 12  # blocks of training frames; frames left out beside one
STRENGTHS = 10.0 ** np.arange(-1, 7.01, 0.5)
TIMED = 6.0  # s of sound
CHUNK = SAMPLE_RATE // 50


def tried(kind: str) -> list[Layout]:
    """Return the layouts that are compared: those that can be chosen, and their neighbors."""
    usual = LAYOUTS[kind][0]
    margins = usual.margins
    if kind == "mel":
        found = [Layout(hop, 0, hop, False, margins, future) for hop, future in (
            (10, 2), (10, 1), (10, 0), (6, None), (4, None), (2, None))]  # fmt: skip
    else:
        found = [
            Layout(hop, 80 - ahead, ahead, False, margins, future)
            for hop, ahead, future in (
                (10, 20, None), (10, 15, None), (10, 10, None), (10, 20, 1), (10, 20, 0),
                (2, 7, None), (4, 7, None), (2, 9, 2), (4, 9, 2), (6, 9, 2), (4, 11, 1), (6, 11, 1),
                (4, 13, 0), (6, 13, 0), (10, 13, 0),
            )
        ]  # fmt: skip
    return list(dict.fromkeys([*LAYOUTS[kind], *found]))


def window_gram(
    rows: Float[np.ndarray, "R F"], frames: Int[np.ndarray, " T"], layout: Layout
) -> Float[np.ndarray, "T T"]:
    """Return inner products of what frames hear, of standardized features.

    Args:
      rows: Features at 50 Hz.
      frames: Frames of the sound.
      layout: That of the features: each row that a window has counts once.
    """
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-6)
    products = (rows @ rows.T).astype(np.float64)
    half = np.arange(-ENTRY_ROWS // 2, ENTRY_ROWS // 2)
    heard = np.unique(FRAME_ROWS * layout.offsets(WINDOW_FRAMES)[:, None] + half)
    total = np.zeros((len(frames), len(frames)))
    for offset in heard:
        at = np.clip(FRAME_ROWS * frames + offset, 0, len(rows) - 1)
        total += products[np.ix_(at, at)]
    return total / len(heard)


def ridge(
    gram: Float[np.ndarray, "T T"],
    truth: Float[np.ndarray, "T C"],
    train: Int[np.ndarray, " N"],
    test: Int[np.ndarray, " M"],
) -> Float[np.ndarray, "S M C"]:
    """Tell `truth` of the frames `test` from those of `train`, for all `STRENGTHS`."""
    own, other = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
    mean = own.mean(axis=0)
    centered = own - mean[None] - mean[:, None] + mean.mean()
    other = other - other.mean(axis=1, keepdims=True) - mean[None] + mean.mean()
    values, vectors = np.linalg.eigh(centered)
    base = truth[train].mean(axis=0)
    told, asked = vectors.T @ (truth[train] - base), other @ vectors
    powers = np.maximum(values, 0)[:, None]
    return np.stack([asked @ (told / (powers + strength)) + base for strength in STRENGTHS])


def correlations(
    gram: Float[np.ndarray, "T T"],
    truth: Float[np.ndarray, "T C"],
    train: Int[np.ndarray, " N"],
    test: Int[np.ndarray, " M"],
) -> tuple[list[float], list[float]]:
    """Return r of every column of `truth` over `test`, and cross-validated over `train`."""
    crossed = np.zeros((len(STRENGTHS), len(train), truth.shape[1]))
    for places in np.array_split(np.arange(len(train)), FOLDS):
        part = train[places]
        rest = train[(train < part[0] - APART) | (train > part[-1] + APART)]
        crossed[:, places] = ridge(gram, truth, rest, part)
    best = np.square(crossed - truth[train]).mean(axis=1).argmin(axis=0)
    held_out = ridge(gram, truth, train, test)
    columns = range(truth.shape[1])
    r = lambda told, true: float(np.corrcoef(told, true)[0, 1])
    return (
        [r(held_out[best[c], :, c], truth[test, c]) for c in columns],
        [r(crossed[best[c], :, c], truth[train, c]) for c in columns],
    )


def cpu_cost(kind: str, layout: Layout, samples: np.ndarray) -> dict[str, float]:
    """Return CPU seconds per second of sound, of a file and of a stream."""
    chunks = [samples[at : at + CHUNK] for at in range(0, len(samples), CHUNK)]
    found = {}
    for name, parts in (("file", [samples]), ("stream", chunks)):
        stream = FeatureStream(kind, layout=layout)
        stream.push(samples[:SAMPLE_RATE])  # compiles
        began = time.process_time()
        for part in parts:
            stream.push(part)
        found[f"cpu_s_per_s_{name}"] = (time.process_time() - began) / len(samples) * SAMPLE_RATE
    return found


def measure(data: Dataset, kind: str, layout: Layout) -> dict:
    """Return the case of one layout."""
    samples, arrays = read_audio(data.folder / "audio.wav"), data.arrays
    loudness = data.meta["audio_features"].get("loudness")
    rows = extract_features(samples, kind, loudness=loudness, layout=layout)
    opening = np.asarray(arrays["mouth_opening"])
    truth = np.stack([opening, mouth_width(np.asarray(arrays["landmarks"]))], axis=1)
    truth = (truth - truth.mean(axis=0)) / truth.std(axis=0)
    train, test = data.train_frames, data.frames_of("val")
    gram = window_gram(rows, np.arange(data.num_frames), layout)
    held_out, crossed = correlations(gram, truth, train, test)
    return rounded({
        "source": data.meta["source"]["name"], "kind": kind, "hop_rows": layout.hop_rows,
        "left_rows": layout.left_rows, "ahead_rows": layout.ahead_rows,
        "crossfaded": layout.is_crossfaded, "last_entry": int(layout.offsets().max()),
        "look_ahead_s": layout.look_ahead(), "r_opening": held_out[0], "r_width": held_out[1],
        "r_opening_crossed": crossed[0], "r_width_crossed": crossed[1],
        "frames": [len(train), len(test)],
        **cpu_cost(kind, layout, samples[: round(TIMED * SAMPLE_RATE)]),
    })  # fmt: skip


def make(data: Dataset, folder: Path, look_ahead: float) -> Path:
    """Copy a dataset of one stretch, with features of another look-ahead.

    Raises:
      InputError: if it has several stretches, another program's features, or the folder is there.
    """
    told = data.meta["audio_features"]
    if len(data.stretches) > 1 or told["kind"] not in LAYOUTS:
        raise InputError(f"{data.folder}: preprocess the film again with --look-ahead")
    if folder.exists():
        raise InputError(f"{folder}: is there already; name a new folder")
    kind, layout = told["kind"], layout_of(told["kind"], look_ahead)
    samples = read_audio(data.folder / "audio.wav")
    rows = extract_features(samples, kind, loudness=told.get("loudness"), layout=layout)
    shutil.copytree(data.folder, folder)
    np.save(folder / FILES["audio_features"], rows)
    np.save(folder / FILES["silence_features"], silence_features(kind, layout=layout))
    told = {name: value for name, value in told.items() if name != "look_ahead"}
    meta = data.meta | {"audio_features": told | told_look_ahead(kind, layout)}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    return folder


def main(argv: list[str] | None = None) -> Path:
    """Run the comparison, or make a dataset; returns what was written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--kinds", nargs="+", choices=tuple(LAYOUTS), default=tuple(LAYOUTS))
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="a dataset laid out anew")
    parser.add_argument("--look-ahead", type=float, default=0.4, help="of that dataset (0.4)")
    arguments = parsed(parser, argv, figures=False)
    if arguments.make is not None:
        return make(Dataset.open(arguments.datasets[0]), arguments.make, arguments.look_ahead)
    names = ("source", "kind", "hop_rows", "left_rows", "ahead_rows", "crossfaded", "last_entry")
    for folder in arguments.datasets:
        for kind in arguments.kinds:
            for layout in tried(kind)[: 2 if arguments.tiny else None]:
                case = measure(Dataset.open(folder), kind, layout)
                print(case, flush=True)
                add_case(NAME, case, lambda c: tuple(c[n] for n in names), arguments.out)
    return arguments.out / f"{NAME}.json"


if __name__ == "__main__":
    run_main(main)
