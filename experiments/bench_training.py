"""Seconds per training step, both stages, and whether the losses fall.

Claim: a step keeps the GPU busy. A step here is everything: cutting the batch, networks,
rasterizer, losses, backward pass, Adam. Steps are dispatched as `fit` does, without waiting for
each other; a time is that of a block of steps between two synchronizations, after a warm-up;
medians with spread. All slots hold Gaussians, as after the static stage. The deformation stage is
measured with the perceptual loss and without. `--kernels xla` has no Triton kernel in the step.
Claim: with as many Gaussians a person's step takes at most 1.25 times a head's.

    python -m experiments.bench_training DATASET [--preset paper] [--kernels triton]
        [--bodies person [head]] [--size N] [--devices 1 [2 ...] --per-device-batch N] [--warm 30]
        [--steps 200] [--tiny] [--out FOLDER]

writes `results/bench_training_KERNELS.json`, of several bodies `bench_training_bodies.json`, with
--per-device-batch `bench_scaling.json`: that sets the frames of each device in both stages, for one
number of devices after the other in the same process. `--size` resizes the frames. `--tiny` runs a
few steps of the `tiny` preset and writes nowhere but to --out (for tests).
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import jax
import numpy as np

from egs_jax.config import Body, Config
from egs_jax.data.dataset import Dataset
from egs_jax.presets import preset
from egs_jax.runtime.arguments import Parser
from egs_jax.training import parallel
from egs_jax.training import step as train
from egs_jax.training.frames_on_device import batch_source
from egs_jax.training.loop import batches_from
from egs_jax.training.state import TrainState
from egs_jax.types import Batch
from experiments._common import record, spread
from experiments._runs import parsed, run_main

BODIES = get_args(Body)
BLOCK = 10
"""Steps between two synchronizations."""
ASIDE = 0.003
"""World units: the head spans 1.6, so 50,000 points on it are about 0.007 apart."""


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--kernels", choices=("triton", "xla"), default="triton")
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=["person"])
    parser.add_argument("--size", type=int)
    parser.add_argument("--devices", type=int, nargs="+", default=[1])
    parser.add_argument("--per-device-batch", type=int)
    parser.add_argument("--warm", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parsed(parser, argv, figures=False)
    if arguments.devices != [1] and not arguments.per_device_batch:
        parser.error("--devices: name --per-device-batch too, by which their steps compare")
    config = preset("tiny" if arguments.tiny else arguments.preset, data_dir=str(arguments.dataset))
    warm, steps = (1, 2) if arguments.tiny else (arguments.warm, arguments.steps)
    steps = steps if steps < BLOCK else steps // BLOCK * BLOCK  # whole blocks are timed
    dataset = Dataset.open(arguments.dataset, arguments.size or config.size)
    fill(dataset, config.densify.capacity)
    config = dataclasses.replace(
        config, rasterizer=arguments.kernels, size=dataset.width,
        schedule=dataclasses.replace(
            config.schedule, static_steps=1 + warm + steps, deform_steps=10**6
        ),
        densify=dataclasses.replace(config.densify, points=config.densify.capacity),
    )  # fmt: skip
    several = len(arguments.bodies) > 1
    name, cases = f"bench_training_{'bodies' if several else arguments.kernels}", []
    for devices, body in itertools.product(arguments.devices, arguments.bodies):
        model = dataclasses.replace(config.model, body=body)
        config = dataclasses.replace(config, devices=devices, model=model)
        if frames := arguments.per_device_batch:
            name, frames = "bench_scaling", frames * devices
            schedule = dataclasses.replace(config.schedule, static_batch=frames, batch=frames)
            config = dataclasses.replace(config, schedule=schedule)
        cases += measure(config, dataset.view(dataset.width, body), warm, steps)
    return record(name, cases, arguments.out)


def fill(dataset: Dataset, count: int) -> None:
    """Give its initial cloud so many points: copies of those it has, a little aside."""
    arrays, rng = dataset.arrays, np.random.default_rng(0)
    chosen = np.arange(count) % len(arrays["points"])
    aside = ASIDE * rng.standard_normal((count, 3), np.float32)
    arrays["points"] = arrays["points"][chosen] + aside
    arrays["point_colors"] = arrays["point_colors"][chosen]


def measure(config: Config, dataset: Dataset, warm: int, steps: int) -> list[dict]:
    """Train `1 + warm + steps` steps of each stage, then of the second without perceptual loss.

    The first stage must have so many.
    """
    parallel.check(config)
    source, cases = batch_source(config, dataset), []
    state = parallel.replicate(config, train.init_state(config, dataset))
    plain = dataclasses.replace(config, loss=dataclasses.replace(config.loss, perceptual=0.0))
    for stage, settings in (("static", config), ("deform", config), ("deform", plain)):
        if stage == "deform" and not bool(state.deforming):
            state = train.hand_over(config, state)
        batches = batches_from(settings, source, int(state.step))
        state, first, seconds, losses = run(settings, batches, state, warm, steps)
        stats = jax.local_devices()[0].memory_stats() or {}
        third = max(1, len(losses) // 3)
        batch = settings.frames(stage)
        case = {
            "stage": stage,
            "body": dataset.body,
            "perceptual": settings.loss.perceptual > 0,
            "preset": settings.preset,
            "kernels": settings.rasterizer,
            "size": settings.size,
            "batch": batch,
            "devices": settings.devices,
            "gaussians": int(np.sum(state.alive)),
            "capacity": settings.densify.capacity,
            "warm": warm,
            "steps": steps,
            "first_step_s": round(first, 2),
            **spread(seconds),
            "images_per_second": round(batch / float(np.median(seconds)), 1),
            "loss_first_third": round(float(np.mean(losses[:third])), 5),
            "loss_last_third": round(float(np.mean(losses[-third:])), 5),
            "peak_memory_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 3) or None,
        }
        print(case, flush=True)
        cases.append(case)
    return cases


def run(
    config: Config, batches: Iterator[Batch], state: TrainState, warm: int, steps: int
) -> tuple[TrainState, float, list[float], list[float]]:
    """Train so many steps: state, seconds of the first and of later ones by block, losses."""

    def block(state: TrainState, count: int) -> tuple[TrainState, list[jax.Array]]:
        losses = []
        for batch in itertools.islice(batches, count):
            state, metrics = parallel.train_step(config, state, batch)
            losses.append(metrics["loss"])
        jax.block_until_ready(losses)
        return state, losses

    began = time.perf_counter()
    state, losses = block(state, 1)
    first, seconds = time.perf_counter() - began, []
    state, more = block(state, warm)
    losses += more
    for _ in range(max(1, steps // BLOCK)):
        count, began = min(BLOCK, steps), time.perf_counter()
        state, more = block(state, count)
        seconds.append((time.perf_counter() - began) / count)
        losses += more
    return state, first, seconds, [float(loss) for loss in losses]


if __name__ == "__main__":
    run_main(main)
