"""Triton kernels of a training step beside the rasterizer, on a GPU: right, repeatable, and timed.

Claim: each equals the JAX implementation, 100 repeats give the same bits, and it takes a fraction
of the time; the gradient of dense planes takes longer, but has the same bits every time.
  * `mean_ssim`: to 1e-6, its gradient to 1e-4 of its length, for images from one pixel to full HD
    and for any number of channels.
  * `sample_planes`: the gradient of the tables up to the rounding of the weights; in any order of
    the points the same bits; one cotangent that is not finite makes it NaN.
  * `decode_heads`: outputs and all gradients up to what operands of bfloat16 leave.

    python -m experiments.check_training_kernels_gpu

prints a line per check and per time, writes `results/check_training_kernels_gpu.json` and
`results/bench_training_kernels.json`, and exits with 1 if a check fails.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._common import RESULTS, Report, record, require_triton, spread
from experiments._runs import run_main
from kernels import mean_ssim, sample_planes
from kernels.deform import HeadWeights, decode_heads
from kernels.deform import cases as deform_cases
from kernels.planes import Levels
from kernels.planes import cases as planes_cases
from kernels.ssim.cases import make_pair
from kernels.ssim.reference import mean_ssim_reference

REPEATS = 100
ROUNDS, CALLS = 15, 20  # times taken, and calls in a row for one: dispatching must not be measured
IMPLEMENTATIONS = ("xla", "triton")

SSIM_SHAPES = (
    (1, 1, 1, 1), (3, 5, 7, 3), (2, 11, 11, 4), (1, 16, 33, 3), (1, 200, 3, 1), (5, 63, 65, 2),
    (8, 450, 450, 3), (8, 512, 512, 3), (1, 1080, 1920, 3),
)  # fmt: skip

HASH = Levels((64, 77, 93, 113, 136, 165, 199, 240, 291, 351, 424, 512), 2**14)  # the default
PLANES = dict(
    hash=dict(levels=HASH, count=50_000),
    dense=dict(levels=Levels((127,)), count=50_000, features=32),  # "parity", the finer of its two
    ragged=dict(levels=Levels((4, 9, 640), 2**12), count=5_001, planes=2, features=3),
    one=dict(levels=HASH, count=1),
    wide=dict(levels=HASH, count=50_000, exponents=(-60, 60)),
)
# Of the largest gradient. A weight has 2^-24 of the cells' number, times the contributions' number.
PLANES_ERROR = 1e-4
PAPER = dict(n=2, d=64, units=128, k=16)
HEADS = dict(paper=(400_000, PAPER), ragged=(5_001, PAPER), small=(1, dict(n=2, d=16, units=16)))
HEADS_ERROR = 0.01  # of each gradient's length


def check_ssim(report: Report) -> None:
    """Check `mean_ssim`: value, gradient, bits, and images of one color."""
    run = lambda name: jax.jit(jax.value_and_grad(partial(mean_ssim, implementation=name)))
    in_xla, in_triton = map(run, IMPLEMENTATIONS)
    for shape in SSIM_SHAPES:
        a, b = map(jnp.asarray, make_pair(shape))
        (want, expected), (value, gradient) = in_xla(a, b), in_triton(a, b)
        alone = mean_ssim(a, b, implementation="triton")  # another kernel: without slopes
        off = max(abs(float(v - want)) for v in (value, alone))
        exact = abs(float(value) - _ssim_in_float64(a, b))
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


def _ssim_in_float64(a: jax.Array, b: jax.Array) -> float:
    """Evaluate the definition on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = (jnp.asarray(np.asarray(image), jnp.float64) for image in (a, b))
        return float(jax.jit(mean_ssim_reference)(*wide))


def time_ssim() -> list[dict]:
    """Time `mean_ssim` forward and both ways, 8 images; the implementations take turns."""
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


def planes_gradient(case: planes_cases.Case, implementation: str) -> Callable[..., jax.Array]:
    """Return the gradient of the tables, jitted, of tables, points and cotangents."""

    def gradient(tables: jax.Array, points: jax.Array, cotangents: jax.Array) -> jax.Array:
        read = partial(
            sample_planes, points=points, levels=case.levels, implementation=implementation
        )
        return jax.vjp(read, tables)[1](cotangents)[0]

    return jax.jit(gradient)


def arrays_of(case: planes_cases.Case) -> tuple[jax.Array, ...]:
    """Return tables, points and cotangents."""
    return tuple(map(jnp.asarray, (case.tables, case.points, case.cotangents)))


def check_planes(report: Report) -> None:
    """Check against JAX on a CPU, repeats, other orders of points, numbers not finite."""
    for name, sizes in PLANES.items():
        case = planes_cases.make_case(**sizes)
        gradient, arrays = planes_gradient(case, "triton"), arrays_of(case)
        first = np.asarray(gradient(*arrays))
        with jax.default_device(jax.devices("cpu")[0]):
            want = np.asarray(planes_gradient(case, "xla")(*arrays_of(case)))
        error = float(np.max(np.abs(first - want)) / np.max(np.abs(want)))
        report.check(f"planes {name}", error < PLANES_ERROR, f"{error:.1e}")
        same = sum(np.array_equal(first, gradient(*arrays)) for _ in range(REPEATS))
        report.check(
            f"planes {name} repeats", same == REPEATS, f"{same} of {REPEATS} bit-identical"
        )
        order = np.random.default_rng(1).permutation(case.points.shape[2])
        case = case._replace(
            points=case.points[:, :, order], cotangents=case.cotangents[:, :, order]
        )
        same = np.array_equal(first, gradient(*arrays_of(case)))
        report.check(f"planes {name} order", same, f"same bits {same}")
        case.cotangents[0, 0, 0, 0] = np.inf
        lost = np.all(np.isnan(gradient(*arrays_of(case))))
        report.check(f"planes {name} not finite", lost, f"all NaN {lost}")


def time_planes() -> list[dict]:
    """Time the gradient of the tables; also with half of the Gaussians dead, at one place."""
    cases = {name: planes_cases.make_case(**PLANES[name]) for name in ("hash", "dense")}
    cases["hash, half dead"] = dead = planes_cases.make_case(**PLANES["hash"])
    half = dead.points.shape[2] // 2
    dead.points[:, :, half:], dead.cotangents[:, :, half:] = 0.5, 0.0
    times = []
    for name, case in cases.items():
        functions = {kind: planes_gradient(case, kind) for kind in IMPLEMENTATIONS}
        times += take_turns(f"planes {name}, gradient", functions, *arrays_of(case))
    return times


def heads_case(network: str, rows: int, sizes: dict) -> tuple[HeadWeights, tuple[jax.Array, ...]]:
    """Make weights, rows, and cotangents of both outputs."""
    weights = deform_cases.pack(deform_cases.make_case(network, **sizes)).heads
    keys = jax.random.split(jax.random.key(0), 3)
    columns = weights.hidden.kernel.shape[1], weights.geometry.bias.size, weights.color.bias.size
    draws = zip(keys, columns, strict=True)
    return weights, tuple(jax.random.normal(key, (rows, count)) for key, count in draws)


def heads_both_ways(implementation: str) -> Callable[..., tuple]:
    """Return outputs and gradients of x and all weights; operands are bfloat16 either way."""

    def both_ways(weights: HeadWeights, x: jax.Array, *cotangents: jax.Array) -> tuple:
        def decode(x: jax.Array, weights: HeadWeights) -> tuple:
            rounded = weights if implementation == "triton" else weights.astype(jnp.bfloat16)
            return decode_heads(x, rounded, implementation=implementation)

        out, pullback = jax.vjp(decode, x, weights)
        return out, pullback(cotangents)

    return jax.jit(both_ways)


def check_heads(report: Report) -> None:
    """Check outputs and gradients, each by its length, and repeats."""
    in_xla, in_triton = map(heads_both_ways, IMPLEMENTATIONS)
    for network in ("taylor", "mlp"):
        for name, (rows, sizes) in HEADS.items():
            weights, arrays = heads_case(network, rows, sizes)
            got, want = in_triton(weights, *arrays), in_xla(weights, *arrays)
            error = max(
                float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
                for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
            )
            report.check(f"heads {network} {name}", error < HEADS_ERROR, f"{error:.1e}")
    weights, arrays = heads_case("taylor", *HEADS["ragged"])
    first = jax.tree.leaves(in_triton(weights, *arrays))
    same = sum(
        all(map(np.array_equal, first, jax.tree.leaves(in_triton(weights, *arrays))))
        for _ in range(REPEATS)
    )
    report.check("heads repeats", same == REPEATS, f"{same} of {REPEATS} bit-identical")


def time_heads() -> list[dict]:
    """Time both ways for 8 frames of 50,000 Gaussians, XLA in float32 as before."""
    times = []
    for network in ("taylor", "mlp"):
        weights, arrays = heads_case(network, *HEADS["paper"])

        def float32(weights: HeadWeights, x: jax.Array, *cotangents: jax.Array) -> tuple:
            decode = partial(decode_heads, implementation="xla")
            return jax.vjp(decode, x, weights)[1](cotangents)

        functions = dict(xla=jax.jit(float32), triton=heads_both_ways("triton"))
        times += take_turns(f"heads {network}, both ways", functions, weights, *arrays)
    return times


def take_turns(name: str, functions: dict[str, Callable], *arrays: Any) -> list[dict]:
    """Time each function, synchronized after CALLS, in turns; one case a function."""
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
    require_triton()
    report = Report()
    for check in (check_ssim, check_planes, check_heads):
        check(report)
    status = report.finish("check_training_kernels_gpu", RESULTS)
    record("bench_training_kernels", [*time_ssim(), *time_planes(), *time_heads()])
    return status


if __name__ == "__main__":
    run_main(main)
