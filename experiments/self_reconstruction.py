"""Video of one person in, held-out frames of the same person out (the paper's self-driven setting).

Claim: the avatar beats the two baselines of doing nothing clever, and the sound moves its mouth.
The paper's own figure (36.07 dB composite PSNR on a longer clip of the Obama address, 450 px) is
not comparable with short `tiny` runs at 160 px; it is the target of the `paper` preset on a GPU.

    python -m experiments.self_reconstruction VIDEO [VIDEO ...] [--preset tiny] [--work FOLDER]
        [--size N] [--val-seconds S] [--seed 0] [--plot-only] [--tiny]

About 15 minutes a video with `tiny` on two CPU cores. Adds one case per (video, preset, seed) to
`results/self_reconstruction.json`, replacing an earlier one, and draws all cases. `--tiny` trains a
few steps (tests).
"""

import argparse
import time
from pathlib import Path

from egs_jax.__main__ import Parser
from egs_jax.config import PRESETS, preset
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.evaluate import evaluate
from egs_jax.preprocess.pipeline import preprocess
from egs_jax.runtime.errors import InputError
from egs_jax.training.loop import fit
from experiments import _plots
from experiments._runs import add_case, parsed, rounded, run_main, shrunk, to_draw

NAME = "self_reconstruction"


def main(argv: list[str] | None = None) -> Path:
    """Run the experiment; returns the figure."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="*", metavar="VIDEO")
    parser.add_argument("--preset", default="tiny", choices=PRESETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int)
    parser.add_argument("--val-seconds", type=float)
    parser.add_argument("--audio-features", default="whisper", choices=("whisper", "mel"))
    parser.add_argument("--work", type=Path, default=Path("runs/self_reconstruction"))
    parser.add_argument("--plot-only", action="store_true")
    arguments = parsed(parser, argv)
    if not (arguments.videos or arguments.plot_only):
        raise InputError("name a VIDEO, or draw earlier results with --plot-only")
    for video in [] if arguments.plot_only else arguments.videos:
        add_case(NAME, run_case(video, arguments), _key, arguments.out)
    cases = to_draw(NAME, arguments.out)
    path = arguments.figures / f"{NAME}.png"
    _plots.reconstruction(cases, path)
    return path


def run_case(video: Path, arguments: argparse.Namespace) -> dict:
    """Preprocess (once), train and evaluate one video."""
    folder = arguments.work / video.stem
    dataset_dir = folder / "dataset"
    if not (dataset_dir / "meta.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        preprocess(
            video, dataset_dir, size=arguments.size, val_seconds=arguments.val_seconds,
            audio_features=arguments.audio_features,
        )  # fmt: skip
    name = f"{arguments.preset}-{arguments.seed}"
    config = preset(arguments.preset, data_dir=str(dataset_dir.resolve()), seed=arguments.seed)
    if arguments.tiny:
        config = shrunk(config)
    dataset = Dataset.open(dataset_dir)
    began = time.perf_counter()
    fit(config, dataset, run_dir=folder / name)
    seconds = time.perf_counter() - began
    result = evaluate(folder / name)
    case = {
        "video": video.stem,
        "preset": config.preset + (" shortened" if arguments.tiny else ""),
        "seed": config.seed,
        "train_seconds": round(seconds, 1),
        "train_frames": dataset.splits["train"][1] - dataset.splits["train"][0],
        "tracking": dataset.meta["tracking"],
    }
    return case | rounded(result)


def _key(case: dict) -> tuple:
    return case["video"], case["preset"], case["seed"]


if __name__ == "__main__":
    run_main(main)
