"""How well sound tells lips: the closed-form reader on each clip's held-out end.

    python -m experiments.lips_from_sound DATASET ... [--seconds 5 10 15 54] [--write] [--tiny]

fits `speech.lips` on the last so many seconds of training of every clip, alone and with a prior of
the training frames of all other clips that are given, and adds a case for each to
`results/lips_from_sound.json`: correlation, gain (deviation of what is told over that of what is
true) and error (in deviations of the training frames) of opening and width, and the share of
closures that are told within `NEAR` frames. No network is trained: a second a clip on a CPU core.

With `--write`, nothing is measured: a prior of all clips but the first is put into the first one's
folder (`lips_prior.npy`, 74 kB), where training with `--model.lips fitted` finds it. This is how
somebody with more clips, of several people, has a better prior. It is part of the dataset: runs
that were begun without it go on as they were begun only if it is taken away again.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from egs_jax.__main__ import Parser
from egs_jax.data.dataset import Dataset
from egs_jax.data.folder import FILES
from egs_jax.data.statistics import REST_SHARE
from egs_jax.evaluation import metrics
from egs_jax.runtime.errors import InputError
from egs_jax.speech.lips import cut_rows, fit_lips, fit_prior, read
from experiments._runs import add_case, parsed, rounded, run_main

NAME = "lips_from_sound"
NEAR = 2
"""Frames by which a closure may be told too early or too late."""
OPEN_SHARE = 0.4
"""Quantile of the opening that lips are over before and after a closure, within `AROUND` frames."""
AROUND = 8


def main(argv: list[str] | None = None) -> Path:
    """Measure, or write a prior; returns the file that was written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 10, 15, 54])
    parser.add_argument("--write", action="store_true", help="write a prior into the first")
    arguments = parsed(parser, argv, figures=False)
    clips = [Dataset.open(folder) for folder in arguments.datasets]
    _check(clips, arguments)
    parts = [_part(clip, clip.train_frames) for clip in clips]
    if arguments.write:
        path = arguments.datasets[0] / FILES["lips_prior"]
        np.save(path, fit_prior(parts[1:]))
        return path
    for place, clip in enumerate(clips):
        others = parts[:place] + parts[place + 1 :]
        priors = [None, fit_prior(others)] if others else [None]
        for seconds in arguments.seconds:
            for prior in priors:
                case = measured(clip, parts[place], seconds, prior)
                print(case)
                add_case(NAME, rounded(case), key, arguments.out)
    return arguments.out / f"{NAME}.json"


def key(case: dict) -> tuple:
    """Return what makes two cases one."""
    return case["video"], case["seconds"], case["others"]


def _check(clips: list[Dataset], arguments: Any) -> None:
    kinds = {clip.meta["audio_features"]["kind"] for clip in clips}
    if len(kinds) > 1:
        raise InputError(
            f"DATASET: features of several kinds ({', '.join(sorted(kinds))}); preprocess all with "
            "the same --audio-features"
        )
    if arguments.write and len(clips) < 2:
        raise InputError("--write: a prior is of other clips; name them after the first DATASET")


def _part(clip: Dataset, frames: Int[np.ndarray, " N"]) -> tuple[np.ndarray, np.ndarray]:
    """Return what frames are read from, and their lips."""
    return cut_rows(clip.audio_windows, frames), clip.lip_shapes[frames]


def measured(
    clip: Dataset, train: tuple[np.ndarray, np.ndarray], seconds: float, prior: np.ndarray | None
) -> dict[str, Any]:
    """Fit on the last `seconds` of the training frames; compare on the held-out end."""
    count = min(round(seconds * clip.fps), len(train[0]))
    rows, shapes = (values[-count:] for values in train)
    mean, spread = shapes.mean(axis=0), np.maximum(shapes.std(axis=0), 1e-3)
    shapes = (shapes - mean) / spread
    resting = shapes[:, 0] <= np.quantile(shapes[:, 0], REST_SHARE)
    hush = clip.arrays["silence_features"]
    fitted = fit_lips(rows, shapes, hush, shapes[resting].mean(axis=0), prior)
    heard, true = _part(clip, clip.frames_of("val"))
    true, told = (true - mean) / spread, read(fitted.reader, heard)
    shut, wide = np.quantile(shapes[:, 0], [REST_SHARE, OPEN_SHARE])
    case: dict[str, Any] = {
        "video": Path(clip.meta["source"]["name"]).stem,
        "seconds": round(count / clip.fps, 1),
        "others": prior is not None,
        "ridge": fitted.ridge.tolist(),
        "prior_share": fitted.prior_share.tolist(),
    }
    for k, name in enumerate(("opening", "width")):
        a, b = told[:, k].astype(float), true[:, k].astype(float)
        case[f"{name}_r"] = metrics.correlation(a, b).value
        case[f"{name}_gain"] = metrics.gain(a, b).value
        case[f"{name}_error"] = float(np.sqrt(np.mean(np.square(a - b))))
    closures = closed_runs(true[:, 0], shut, wide)
    hits = [(told[max(a - NEAR, 0) : b + NEAR, 0] <= shut).any() for a, b in closures]
    return case | {"closures": len(hits), "closed": float(np.mean(hits)) if hits else None}


def closed_runs(
    opening: Float[np.ndarray, " T"], shut: float, wide: float
) -> list[tuple[int, int]]:
    """Return runs of frames [start, stop) with shut lips that come from wide ones and go there."""
    low: Bool[np.ndarray, " T"] = np.concatenate([[False], opening <= shut, [False]])
    starts, stops = (np.flatnonzero(low[1:] & ~low[:-1]), np.flatnonzero(low[:-1] & ~low[1:]))
    near = lambda part: bool(part.size) and part.max() >= wide
    return [
        (int(a), int(b))
        for a, b in zip(starts, stops, strict=True)
        if near(opening[max(a - AROUND, 0) : a]) and near(opening[b : b + AROUND])
    ]


if __name__ == "__main__":
    run_main(main)
