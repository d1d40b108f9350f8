"""Whole trainings: from the command to the avatar, in seconds, bits and quality.

Claims: on one GPU `paper` takes under four minutes and `fast` about one, with at most 0.7 dB less
on held-out frames; the same command ends with the same bits; twice the devices draw nearly twice
the images and come, in seconds of steps, sooner to the same picture. A run is the command `train`,
in a process of its own: Python's start, compilation and the last save count. Nothing compiled is
kept before the first repeat; later ones find what it left, or nothing either with --fresh.

    python -m experiments.bench_runs DATASET [--preset fast] [--set NAME=VALUE ...] [--repeat 1]
        [--fresh] [--work FOLDER] [--tiny]

adds one case per (video, preset, settings, --fresh) to `results/bench_runs.json`: seconds and hash
of every repeat; the last one's rates, its training PSNR by the time of its steps, and its figures
on the held-out frames. Compare only cases of one machine; several devices by, say, `--set devices=2
schedule.batch=16`.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import get_args

import numpy as np

from egs_jax.config import Config, Stage
from egs_jax.config_text import override
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.evaluate import evaluate
from egs_jax.presets import PRESETS, preset
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.training.run_folder import read_metrics
from experiments._runs import (
    add_case,
    parsed,
    rates,
    rounded,
    run_main,
    shrunk,
    timed,
    train_command,
)

NAME = "bench_runs"
POINTS = 20
"""Points of the course of the PSNR: each the mean over so many equal parts of the second stage."""


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--preset", default="fast", choices=PRESETS)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_runs"))
    arguments = parsed(parser, argv, figures=False)
    if arguments.repeat < 1:
        raise InputError(f"--repeat: got {arguments.repeat}, expected at least 1")
    for item in arguments.set:
        if "=" not in item:
            raise InputError(f"--set: got {item!r}, expected NAME=VALUE, say devices=2")
    settings = dict(sorted(item.split("=", 1) for item in arguments.set))
    dataset = Dataset.open(arguments.dataset)
    config = preset(arguments.preset, data_dir=str(arguments.dataset.resolve()))
    config = override(shrunk(config) if arguments.tiny else config, settings)
    case = {
        "video": Path(dataset.meta["source"]["name"]).stem,
        "preset": arguments.preset,
        "settings": settings,
        "fresh": arguments.fresh,
    }
    name = "-".join([case["video"], arguments.preset, *settings, *settings.values()])
    case |= measure(config, arguments.work / name, arguments.repeat, arguments.fresh)
    add_case(NAME, rounded(case), key, arguments.out)
    return arguments.out / f"{NAME}.json"


def key(case: dict) -> tuple:
    """Return what makes two cases the same one."""
    return case["video"], case["preset"], *case["settings"].items(), case["fresh"]


def measure(config: Config, folder: Path, repeat: int, fresh: bool) -> dict:
    """Train from nothing so many times, and look at the last avatar."""
    run_dir, compiled = folder / "run", folder / "compiled"
    seconds, hashes = [], []
    for i in range(repeat):
        shutil.rmtree(run_dir, ignore_errors=True)
        if fresh or i == 0:
            shutil.rmtree(compiled, ignore_errors=True)
        seconds.append(train(train_command(config, run_dir), compiled, folder / "output.txt"))
        lines = read_metrics(run_dir / "metrics.jsonl")
        hashes.append(lines[-1]["state_sha256"])
        print(f"{seconds[-1]:.1f} s, state_sha256 {hashes[-1]}", flush=True)
    frames = {stage: config.frames(stage) for stage in get_args(Stage)}
    images = {stage: rate * frames[stage] for stage, rate in rates(lines).items()}
    return {
        "seed": config.seed, "devices": config.devices, "frames_a_step": frames,
        "seconds": seconds, "state_sha256": hashes, "images_per_second": images,
        "course": course(lines),
    } | evaluate(run_dir)  # fmt: skip


def train(command: list[str], compiled: Path, output: Path) -> float:
    """Train in a process that keeps its compiled programs in a folder; returns the seconds.

    Raises:
      TrainingError: if it fails.
    """
    compiled.mkdir(parents=True, exist_ok=True)
    kept = {  # as `environment.keep_programs` has it on a GPU
        "JAX_COMPILATION_CACHE_DIR": str(compiled.resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TRITON_CACHE_DIR": str(compiled.resolve() / "triton"),
    }
    began = time.perf_counter()
    with output.open("wb") as file:
        done = subprocess.run(command, env=os.environ | kept, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise TrainingError(f"training ended with status {done.returncode}; see {output}")
    return time.perf_counter() - began


def course(lines: list[dict]) -> list[tuple[float, float]]:
    """Return seconds of all steps so far, and training PSNR [dB], through the second stage.

    Compilation and saving are left out; empty for a run too short to have rates.
    """
    second = [(end, line["psnr"]) for end, line in timed(lines) if line["stage"] == "deform"]
    parts = np.array_split(second, min(POINTS, len(second))) if second else []
    return [tuple(map(float, np.mean(part, axis=0))) for part in parts]


if __name__ == "__main__":
    run_main(main)
