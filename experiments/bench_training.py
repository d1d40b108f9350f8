"""Seconds per training step, both stages, and whether the losses fall.

Claim: both stages run on this machine with bounded memory; the figures are what a faster
rasterizer is measured against. A step is everything but reading the batch from disk: networks,
rasterizer, losses, backward pass, Adam. Times are synchronised, after a warm-up, median with
spread.

    python -m experiments.bench_training DATASET [--preset paper] [--warm 30] [--steps 60] [--tiny]

writes `results/bench_training_RASTERIZER.json`. `--tiny` runs a few steps of the `tiny` preset
and writes nowhere but to --out (for tests).
"""

import argparse
import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

from egs_jax import train
from egs_jax.config import Config, preset
from egs_jax.dataset import Dataset
from egs_jax.types import TrainState
from experiments._common import RESULTS, record, spread


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--rasterizer", default="xla")
    parser.add_argument("--warm", type=int, default=30)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    name = "tiny" if arguments.tiny else arguments.preset
    warm, steps = (1, 3) if arguments.tiny else (arguments.warm, arguments.steps)
    config = preset(name, data_dir=str(arguments.dataset), rasterizer=arguments.rasterizer)
    total = warm + steps
    schedule = dataclasses.replace(config.schedule, static_steps=total, deform_steps=total)
    config = dataclasses.replace(config, schedule=schedule)
    return record(
        f"bench_training_{arguments.rasterizer}",
        measure(config, Dataset.open(arguments.dataset), warm, steps),
        arguments.out,
    )


def measure(config: Config, dataset: Dataset, warm: int, steps: int) -> list[dict]:
    """Train `warm + steps` steps of each stage; one case per stage."""
    state, cases = train.init_state(config, dataset), []
    for stage in ("static", "deform"):
        if stage == "deform":
            state = train.hand_over(config, state)
        state, seconds, losses = _run(config, dataset, state, warm + steps)
        stats = jax.local_devices()[0].memory_stats() or {}
        third = max(1, len(losses) // 3)
        case = {
            "stage": stage,
            "preset": config.preset,
            "rasterizer": config.rasterizer,
            "size": config.size or dataset.width,
            "batch": config.schedule.static_batch if stage == "static" else config.schedule.batch,
            "gaussians": int(np.sum(state.alive)),
            "capacity": config.densify.capacity,
            "first_step_s": round(seconds[0], 2),
            **spread(seconds[warm:]),
            "loss_first_third": round(float(np.mean(losses[:third])), 5),
            "loss_last_third": round(float(np.mean(losses[-third:])), 5),
            "peak_memory_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 3) or None,
        }
        print(case, flush=True)
        cases.append(case)
    return cases


def _run(
    config: Config, dataset: Dataset, state: TrainState, count: int
) -> tuple[TrainState, list[float], list[float]]:
    """`count` steps from where `state` stands: the state, seconds and loss of each."""
    seconds, losses = [], []
    first = int(state.step)
    for step in range(first, first + count):
        batch = jax.block_until_ready(jax.device_put(dataset.batch(config, step)))
        began = time.perf_counter()
        state, metrics = train.train_step(config, state, batch)
        losses.append(float(jax.block_until_ready(metrics["loss"])))
        seconds.append(time.perf_counter() - began)
    return state, seconds, losses


if __name__ == "__main__":
    print(main())
