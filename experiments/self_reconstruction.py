"""Video of one person in, held-out frames of the same person out (the paper's self-driven setting).

Claim: the avatar beats the two baselines of doing nothing clever, and the sound moves its mouth.
The paper's own figure (36.07 dB composite PSNR on a longer clip of the Obama address, 450 px) is
not comparable with short `tiny` runs at 160 px; it is the target of the `paper` preset on a GPU.

    python -m experiments.self_reconstruction VIDEO [VIDEO ...] [--preset tiny] [--work FOLDER]
        [--size N] [--val-seconds S] [--tiny]

About 15 minutes a video with `tiny` on two CPU cores. Adds one case per (video, preset, seed) to
`results/self_reconstruction.json`, replacing an earlier one. `--tiny` trains a few steps (tests).
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

from egs_jax.config import Config, preset
from egs_jax.dataset import Dataset
from egs_jax.evaluate import evaluate
from egs_jax.loop import fit
from egs_jax.preprocess import preprocess
from experiments._common import RESULTS, record

NAME = "self_reconstruction"


def main(argv: list[str] | None = None) -> Path:
    """Run the experiment; returns the file written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int)
    parser.add_argument("--val-seconds", type=float)
    parser.add_argument("--audio-features", default="whisper")
    parser.add_argument("--work", type=Path, default=Path("runs/self_reconstruction"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    for video in arguments.videos:
        case = run_case(video, arguments)
        cases = [c for c in _earlier(arguments.out) if _key(c) != _key(case)]
        path = record(NAME, [*cases, case], arguments.out)
    return path


def run_case(video: Path, arguments: argparse.Namespace) -> dict:
    """Preprocess (once), train and evaluate one video."""
    folder = arguments.work / video.stem
    folder.mkdir(parents=True, exist_ok=True)
    dataset_dir = folder / "dataset"
    if not (dataset_dir / "meta.json").exists():
        preprocess(
            video, dataset_dir, size=arguments.size, val_seconds=arguments.val_seconds,
            audio_features=arguments.audio_features,
        )  # fmt: skip
    name = f"{arguments.preset}-{arguments.seed}"
    config = preset(arguments.preset, data_dir=str(dataset_dir), seed=arguments.seed)
    if arguments.tiny:
        config = _shortened(config)
    dataset = Dataset.open(dataset_dir)
    began = time.perf_counter()
    fit(config, dataset, run_dir=folder / name)
    seconds = time.perf_counter() - began
    result = evaluate(folder / name)
    return {
        "video": video.stem,
        "preset": config.preset + (" shortened" if arguments.tiny else ""),
        "seed": config.seed,
        "train_seconds": round(seconds, 1),
        "train_frames": dataset.splits["train"][1] - dataset.splits["train"][0],
        "tracking": dataset.meta["tracking"],
        **{k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()},
    }


def _shortened(config: Config) -> Config:
    """The same with a few steps of each stage."""
    schedule = dataclasses.replace(config.schedule, static_steps=2, deform_steps=2)
    return dataclasses.replace(config, size=48, schedule=schedule)


def _earlier(folder: Path) -> list[dict]:
    path = folder / f"{NAME}.json"
    return json.loads(path.read_text())["cases"] if path.exists() else []


def _key(case: dict) -> tuple:
    return case["video"], case["preset"], case["seed"]


if __name__ == "__main__":
    print(main())
