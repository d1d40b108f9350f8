"""Video of one person in, held-out frames of the same person out (the paper's self-driven setting).

Claim: the avatar beats the two baselines of doing nothing clever, and the sound moves its mouth.
Pose and lids of a held-out frame are given, of an avatar of a head its background, too, as in the
paper. The paper's own figure
(36.07 dB composite PSNR on a longer clip of the Obama address, 450 px) is not comparable with short
`tiny` runs at 160 px; it is the target of the `paper` preset on a GPU.

    python -m experiments.self_reconstruction CLIP [CLIP ...] [--presets tiny ...] [--seeds 0 ...]
        [--body person] [--jobs 1] [--work FOLDER] [--size N] [--val-seconds S] [--tiny]
    python -m experiments.self_reconstruction --collect RUN_DIR [RUN_DIR ...] [--shared]
    python -m experiments.self_reconstruction --plot-only

A CLIP is a video, preprocessed once, or a dataset folder. About 15 minutes a video with `tiny` on
two CPU cores. Stop it at any time: what is finished is kept, and the run in hand goes on from its
checkpoint. `--jobs 6` has as many processes share the GPU, each with its part of the memory; times
are null then, as with `--shared` those of collected runs. Every finished run becomes a case of
`results/self_reconstruction.json`, in the place of an earlier one of the same video, preset, body,
seed and split; `--collect` does only that, with runs made anywhere, of whose folders eval.json,
config.json, metrics.jsonl and environment.json are needed. A case says whether its clip is one that
settings were chosen on (`_clips`). `--tiny` trains a few steps (tests).
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import get_args

from egs_jax.config import Body, Config
from egs_jax.config_text import override
from egs_jax.data.dataset import Dataset
from egs_jax.preprocess.pipeline import preprocess
from egs_jax.presets import PRESETS, preset
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.speech.features import AUDIO_FEATURES
from egs_jax.training.run_folder import load_config
from experiments import _plots
from experiments._clips import set_of
from experiments._jobs import leave_memory, run_missing
from experiments._runs import (
    add_case,
    parsed,
    rounded,
    run_main,
    shrunk,
    to_draw,
    training_seconds,
)

NAME = "self_reconstruction"
TIMES = ("render_fps", "train_seconds")
NOT_TIMED = "not measured: other runs had the GPU too"


def main(argv: list[str] | None = None) -> Path:
    """Run the experiment; returns the figure."""
    arguments = parsed(_parser(), argv)
    if not (arguments.clips or arguments.collect or arguments.plot_only):
        raise InputError("name a CLIP, runs to --collect, or draw earlier results with --plot-only")
    leave_memory(arguments.jobs)
    ran, failed = run_all(arguments) if arguments.clips else ([], [])
    path = arguments.figures / f"{NAME}.png"
    shared = arguments.shared or arguments.jobs > 1
    if not arguments.only_run:
        for run_dir in [*arguments.collect, *ran]:
            add_case(NAME, case_of(run_dir, shared=shared), _key, arguments.out)
        _plots.reconstruction(to_draw(NAME, arguments.out), path)
    if failed:
        raise TrainingError(f"{len(failed)} runs failed: see {', '.join(map(str, failed))}")
    return path


def _parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="*", metavar="CLIP")
    parser.add_argument("--presets", nargs="+", default=["tiny"], choices=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--body", default="person", choices=get_args(Body))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--collect", type=Path, nargs="+", default=[], metavar="RUN_DIR")
    parser.add_argument("--shared", action="store_true", help="other runs had the GPU too")
    parser.add_argument("--size", type=int)
    parser.add_argument("--val-seconds", type=float)
    parser.add_argument("--audio-features", default="whisper", choices=AUDIO_FEATURES)
    parser.add_argument("--work", type=Path, default=Path("runs/self_reconstruction"))
    parser.add_argument("--plot-only", action="store_true")
    parser.add_argument("--only-run", action="store_true", help="write no case (what jobs do)")
    return parser


def run_all(arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Preprocess, train and measure what is missing.

    Returns:
      The folders of finished runs, and the logs of those that failed.
    """
    datasets = [dataset_of(clip, arguments) for clip in arguments.clips]
    every = itertools.product(arguments.seeds, datasets, arguments.presets)
    runs = {}
    for seed, dataset, name in every:
        config = configured(dataset, name, seed, arguments.body, arguments.tiny)
        runs[run_folder(arguments.work, dataset, config)] = (config, dataset)

    def command(config: Config, dataset: Dataset) -> list[str]:
        name = arguments.presets[0] if arguments.tiny else config.preset
        return [
            sys.executable, "-m", "experiments.self_reconstruction", str(dataset.folder),
            "--only-run", "--presets", name, "--seeds", str(config.seed), "--body", arguments.body,
            "--work", str(arguments.work), "--out", str(arguments.out),
            "--figures", str(arguments.figures),
        ] + ["--tiny"] * arguments.tiny  # fmt: skip

    return run_missing(runs, arguments.jobs, command)


def dataset_of(clip: Path, arguments: argparse.Namespace) -> Dataset:
    """Open a dataset folder, or that of a video, which is made if it is not there."""
    if clip.is_dir():
        return Dataset.open(clip)
    folder = arguments.work / clip.stem / "dataset"
    if not (folder / "meta.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        preprocess(
            clip, folder, size=arguments.size, val_seconds=arguments.val_seconds,
            audio_features=arguments.audio_features,
        )  # fmt: skip
    return Dataset.open(folder)


def configured(dataset: Dataset, name: str, seed: int, body: Body, tiny: bool) -> Config:
    """Return the preset's settings for this dataset."""
    config = preset(name, data_dir=str(dataset.folder.resolve()), seed=seed)
    return override(shrunk(config) if tiny else config, {"model.body": body})


def run_folder(work: Path, dataset: Dataset, config: Config) -> Path:
    """Return where a run trains."""
    video = Path(dataset.meta["source"]["name"]).stem
    return work / video / f"{config.preset}-{config.model.resolved.body}-{config.seed}"


def case_of(run_dir: Path, *, shared: bool = False) -> dict:
    """Return the case of a finished run, from what its folder says.

    Args:
      run_dir: Of the run.
      shared: Whether other runs had the GPU too: then no time of it is kept.

    Raises:
      InputError: if it was not measured.
    """
    path = run_dir / "eval.json"
    if not path.exists():
        raise InputError(f"{run_dir}: not measured yet (no eval.json)")
    result, config = json.loads(path.read_text("utf-8")), load_config(run_dir)
    source, seconds = result.pop("source"), training_seconds(run_dir)
    about = {
        "video": Path(source["name"]).stem,
        "source_sha256": source["sha256"],
        "set": set_of(source["sha256"]),
        "preset": config.preset,
        "body": config.model.resolved.body,
        "seed": config.seed,
        "train_seconds": seconds,
    }
    case = rounded(about | result)
    if shared:
        case["notes"] = case["notes"] | dict.fromkeys(TIMES, NOT_TIMED)
        case |= dict.fromkeys(TIMES)
    made = json.loads((run_dir / "environment.json").read_text("utf-8"))
    commit = made.pop("commit", None)  # runs of 69b6e4b and before: versions alone
    return case | {"versions": made.get("packages", made), "commit": commit}


def _key(case: dict) -> tuple:
    return tuple(case[k] for k in ("video", "preset", "body", "seed", "seconds_held_out"))


if __name__ == "__main__":
    run_main(main)
