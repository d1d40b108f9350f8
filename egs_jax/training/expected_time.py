"""How long a training will take, from what others of its kind took: said before it begins.

A step's time grows with the pixels of its frames, and on a GPU is never less than that of one
frame. Before: `config`; after: `loop`.
"""

import jax

from egs_jax.config import Config
from egs_jax.runtime.environment import usable_cores

PIXELS = 512 * 512
"""Pixels of a frame of the GPU's figures."""
GPU = "NVIDIA H200"
STEP_S = {"triton": (3.9e-3, 9.93e-3), "xla": (11.3e-3, 42.7e-3)}
"""A static step of one frame and a deformation step of eight, by implementation of the kernels:
`experiments/results/bench_training_{triton,xla}.json`, with the perceptual loss."""
START_S = 40.0
"""Until the first step on that GPU: whole runs (`bench_runs.json`) less their steps."""
CPU_CORES = 2
CPU_S_A_PIXEL = {"head": 5.4e-6, "person": 13e-6}
"""Time on so many cores for a pixel of a frame of a step. Heads: the `tiny` runs of
`experiments/results/self_reconstruction.json`, 470 to 602 s for 3,900 frames of 160 px; a person:
570 s for 1,700 of them, with 6,500 Gaussians (the demo, which has fewer, ends sooner)."""
CPU_START_S = 200.0
"""What such a machine compiles, both stages."""


def expected_seconds(
    config: Config, size: int, done: int, platform: str, kernels: str, cores: int
) -> float:
    """Return how long the rest of a training is expected to take on one device.

    Args:
      config: The run.
      size: Side of its frames, pixels.
      done: Steps done before.
      platform: As JAX calls it: "cpu", or it is taken for the measured GPU.
      kernels: "triton" or "xla".
      cores: Of the CPU.
    """
    frames = {stage: config.frames(stage) / config.devices for stage in ("static", "deform")}
    static = config.schedule.static_steps
    steps = {
        "static": max(0, static - done),
        "deform": config.total_steps - max(static, done),
    }
    if platform == "cpu":
        seen = sum(steps[stage] * frames[stage] for stage in steps) * config.devices
        a_pixel = CPU_S_A_PIXEL["person" if config.model.is_person else "head"]
        return (CPU_START_S * (seen > 0) + seen * size**2 * a_pixel) * CPU_CORES / cores
    one, eight = STEP_S[kernels]
    a_frame = eight / 8 * size**2 / PIXELS
    return START_S + sum(steps[stage] * max(one, a_frame * frames[stage]) for stage in steps)


def expectation(config: Config, size: int, done: int, kernels: str) -> str:
    """Return the end of training's first line: how long it is expected to take, and by what."""
    device = jax.local_devices()[0]
    seconds = expected_seconds(config, size, done, device.platform, kernels, usable_cores())
    known = device.platform == "cpu" or device.device_kind == GPU
    where = "" if known else f" on an {GPU}, which was measured: this device was not"
    rest = f" from step {done} on" if done else ""
    return f": {config.preset} at {size} px{rest} takes about {in_words(seconds)}{where}"


def in_words(seconds: float) -> str:
    """Return a time with its first digits only."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
