"""Trains and measures the runs of a series: one after the other, or side by side on one GPU."""

import dataclasses
import os
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.evaluate import evaluate
from egs_jax.runtime.errors import InputError
from egs_jax.training.loop import fit
from egs_jax.training.run_folder import load_config

GPU_SHARE = 0.9
"""Share of a GPU's memory that all jobs have together."""

Runs = Mapping[Path, tuple[Config, Dataset]]
"""Settings and dataset of every run, by the folder in which it trains."""


def leave_memory(jobs: int) -> None:
    """Have this process leave the GPU's memory to several jobs; call it before anything is drawn.

    Raises:
      InputError: for no job at all.
    """
    if jobs < 1:
        raise InputError(f"--jobs: got {jobs}, expected at least 1")
    if jobs > 1:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def run_missing(
    runs: Runs, jobs: int, command: Callable[[Config, Dataset], list[str]]
) -> tuple[list[Path], list[Path]]:
    """Train and measure the runs that are not finished.

    Args:
      runs: All of them.
      jobs: How many at a time. Several have a process each, with its part of the GPU's memory, and
        one that fails stops no other.
      command: The command line of a process that trains and measures one run and no more.

    Returns:
      The folders of finished runs, and the logs of those that failed.
    """
    waiting = {place: run for place, run in runs.items() if not is_finished(*run, place)}
    if jobs == 1:
        for place, (config, dataset) in waiting.items():
            fit(config, dataset, run_dir=place)
            evaluate(place)
        return list(runs), []
    with ThreadPoolExecutor(jobs) as pool:
        logs = pool.map(lambda item: _job(item[0], command(*item[1]), jobs), waiting.items())
        failed = dict(zip(waiting, logs, strict=True))
    done = [place for place in runs if failed.get(place) is None]
    return done, list(filter(None, failed.values()))


def is_finished(config: Config, dataset: Dataset, run_dir: Path) -> bool:
    """Say whether this very run was trained and measured."""
    config = dataclasses.replace(config, size=config.size or dataset.width)
    return (run_dir / "eval.json").exists() and load_config(run_dir) == config


def _job(run_dir: Path, command: list[str], jobs: int) -> Path | None:
    """Train and measure in a process of its own; returns its log if it failed."""
    share = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{GPU_SHARE / jobs:.3f}",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
    }
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = run_dir.parent / f"{run_dir.name}.log"
    with log.open("ab") as file:
        done = subprocess.run(
            command, env=os.environ | share, stdout=file, stderr=file, check=False
        )  # fmt: skip
    print(f"{run_dir}: {f'failed, see {log}' if done.returncode else 'done'}", flush=True)
    return log if done.returncode else None
