"""How well sound tells lips: the closed-form reader on each clip's held-out end.

    python -m experiments.lips_from_sound DATASET ... [--seconds 5 10 15 54] [--write] [--tiny]

fits `speech.lips` on the last so many seconds of training of every clip, alone and with a prior of
the training frames of all other clips that are given, and adds a case for each to
`results/lips_from_sound.json`: correlation, gain (deviation of what is told over that of what is
true) and error (in deviations of the training frames) of opening and width, and the share of
closures at which the told lips shut too. No network is trained: a second a clip on a CPU core.

With `--write`, nothing is measured: a prior of all clips but the first is put into the first one's
folder (`lips_prior.npy`, 74 kB), where training with `--model.lips fitted` finds it. This is how
somebody with more clips, of several people, has a better prior. It is part of the dataset: runs
that were begun without it go on as they were begun only if it is taken away again.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from egs_jax.data.dataset import Dataset
from egs_jax.data.folder import FILES
from egs_jax.data.statistics import REST_SHARE
from egs_jax.data.stretches import laid_out
from egs_jax.evaluation import metrics, mouth
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.speech.lips import cut_rows, fit_lips, fit_prior, read
from experiments._clips import name_of
from experiments._runs import add_case, parsed, rounded, run_main

NAME = "lips_from_sound"


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
    levels = mouth.levels_of(shapes[:, 0])
    line = lambda values: laid_out(values, clip.frames_of("val"), clip.stretches, 1)
    closures = mouth.closures_of(line(true[:, 0]), levels, clip.fps)
    case: dict[str, Any] = {
        "video": name_of(clip.meta["source"]["sha256"], Path(clip.meta["source"]["name"]).stem),
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
    share = mouth.closed_share(line(told[:, 0]), closures, levels)
    return case | {"num_closures": len(closures), "closures": share.value}


if __name__ == "__main__":
    run_main(main)
