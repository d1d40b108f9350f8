"""Triton kernels of a training step beside the rasterizer, on a GPU: right, repeatable, and timed.

Claim: `mean_ssim` equals the JAX implementation to 1e-6, its gradient to 1e-4 of its length, for
images from one pixel to full HD and for any number of channels; 100 repeats give the same bits; it
takes a fraction of the time.

    python -m experiments.check_training_kernels_gpu

prints a line per check and per time, writes `results/check_training_kernels_gpu.json` and
`results/bench_training_kernels.json`, and exits with 1 if a check fails.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments._common import RESULTS, Report, record, spread
from kernels import mean_ssim

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))
from ssim_cases import make_pair, ssim_by_scipy  # noqa: E402

REPEATS = 100
ROUNDS, CALLS = 50, 20  # times taken, and calls in a row for one: dispatching must not be measured
IMPLEMENTATIONS = ("xla", "triton")

SSIM_SHAPES = (
    (1, 1, 1, 1), (3, 5, 7, 3), (2, 11, 11, 4), (1, 16, 33, 3), (1, 200, 3, 1), (5, 63, 65, 2),
    (8, 450, 450, 3), (8, 512, 512, 3), (1, 1080, 1920, 3),
)  # fmt: skip


def check_ssim(report: Report) -> None:
    """`mean_ssim`: value, gradient, bits, and images of one colour."""
    run = lambda name: jax.jit(jax.value_and_grad(partial(mean_ssim, implementation=name)))
    in_xla, in_triton = map(run, IMPLEMENTATIONS)
    for shape in SSIM_SHAPES:
        a, b = map(jnp.asarray, make_pair(shape))
        (want, expected), (value, gradient) = in_xla(a, b), in_triton(a, b)
        alone = mean_ssim(a, b, implementation="triton")  # another kernel: without slopes
        off = max(abs(float(v - want)) for v in (value, alone))
        exact = abs(float(value) - ssim_by_scipy(a, b))
        error = float(jnp.linalg.norm(gradient - expected) / jnp.linalg.norm(expected))
        report.check(
            f"ssim {shape}", max(off, exact) < 1e-6 and error < 1e-4,
            f"value {off:.1e}, in float64 {exact:.1e}, gradient {error:.1e}",
        )  # fmt: skip
    a, b = map(jnp.asarray, make_pair((8, 450, 450, 3), noise=0.1))
    first = jax.tree.map(np.asarray, in_triton(a, b))
    same = sum(all(map(np.array_equal, first, in_triton(a, b))) for _ in range(REPEATS))
    report.check("ssim repeats", same == REPEATS, f"{same} of {REPEATS} bit-identical")
    flat = jnp.full((2, 40, 41, 3), 0.5)
    value, gradient = in_triton(flat, flat)
    steepest = float(jnp.max(jnp.abs(gradient)))
    passes = abs(float(value) - 1) < 1e-6 and steepest < 1e-6
    report.check("ssim of one colour", passes, f"{float(value):.7f}, slopes up to {steepest:.1e}")


def time_ssim() -> list[dict]:
    """Times of `mean_ssim` forward and both ways, 8 images; the implementations take turns."""
    cases = []
    for side in (450, 512):
        a, b = map(jnp.asarray, make_pair((8, side, side, 3), noise=0.1))
        for way, of in (("forward", lambda f: f), ("both ways", jax.value_and_grad)):
            functions = {
                name: jax.jit(of(partial(mean_ssim, implementation=name)))
                for name in IMPLEMENTATIONS
            }
            cases += take_turns(f"ssim {way}, 8 x {side} px", functions, a, b)
    return cases


def take_turns(name: str, functions: dict[str, Callable], *arrays: jax.Array) -> list[dict]:
    """Seconds a call of each function, synchronised after CALLS; one case a function."""
    seconds = {key: [] for key in functions}
    for turn in range(ROUNDS + 1):
        for key, function in functions.items():
            start = time.perf_counter()
            results = [function(*arrays) for _ in range(CALLS)]
            jax.block_until_ready(results)
            if turn:  # the first compiles
                seconds[key].append((time.perf_counter() - start) / CALLS)
    cases = [{"name": name, "implementation": key} | spread(s) for key, s in seconds.items()]
    for case in cases:
        print(f"{name}, {case['implementation']}: {case['median_ms']} ms", flush=True)
    return cases


def main() -> int:
    """Run the checks and take the times; returns the exit status."""
    report = Report()
    check_ssim(report)
    status = report.finish("check_training_kernels_gpu", RESULTS)
    record("bench_training_kernels", time_ssim())
    return status


if __name__ == "__main__":
    sys.exit(main())
