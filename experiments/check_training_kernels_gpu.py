"""The Triton kernels of training on a GPU: right, repeatable, and how long they take.

Claim, planes: the gradient of the tables of `sample_planes` equals that of the JAX implementation
on a CPU up to the rounding of the weights; 100 repeats and any order of the points give the same
bits; one cotangent that is not finite makes it NaN. Timed against XLA's scatter on the same GPU:
calls that follow one another without waiting, the median of repeats that end with a wait.

    python -m experiments.check_training_kernels_gpu

prints a line per check, writes `results/check_training_kernels_gpu.json`, and exits with 1 if one
fails.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from experiments._common import RESULTS, Report, spread
from kernels import sample_planes
from kernels.planes import Levels

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))
from planes_cases import make_case  # noqa: E402

REPEATS = 100
CALLS = 20  # between two waits: a launch alone takes longer than most kernels
TIMES = 30
HASH = Levels((64, 77, 93, 113, 136, 165, 199, 240, 291, 351, 424, 512), 2**14)  # the default
PLANES = dict(
    hash=dict(levels=HASH, count=50_000),
    dense=dict(levels=Levels((127,)), count=50_000, features=32),  # "parity", the finer of its two
    ragged=dict(levels=Levels((4, 9, 640), 2**12), count=5_001, planes=2, features=3),
    one=dict(levels=HASH, count=1),
    wide=dict(levels=HASH, count=50_000, exponents=(-60, 60)),
)
# Of the largest gradient. A weight has 2^-24 of the cells' number, times the contributions' number.
MOST_ERROR = 1e-4


def planes_gradient(case: SimpleNamespace, implementation: str) -> Callable[..., jax.Array]:
    """The gradient of the tables as a jitted function of tables, points and cotangents."""

    def gradient(tables: jax.Array, points: jax.Array, cotangents: jax.Array) -> jax.Array:
        read = partial(
            sample_planes, points=points, levels=case.levels, implementation=implementation
        )
        return jax.vjp(read, tables)[1](cotangents)[0]

    return jax.jit(gradient)


def like_training(case: SimpleNamespace) -> SimpleNamespace:
    """Half of the Gaussians dead, as a run of the preset "paper" has: at one place, no gradient."""
    half = case.points.shape[2] // 2
    case.points[:, :, half:] = 0.5
    case.cotangents[:, :, half:] = 0.0
    return case


def arrays_of(case: SimpleNamespace) -> tuple[jax.Array, ...]:
    """Tables, points and cotangents."""
    return tuple(map(jnp.asarray, (case.tables, case.points, case.cotangents)))


def check_planes(report: Report) -> None:
    """Against JAX on a CPU, repeats, another order of the points, numbers that are not finite."""
    for name, sizes in PLANES.items():
        case = make_case(**sizes)
        gradient = planes_gradient(case, "triton")
        first = np.asarray(gradient(*arrays_of(case)))
        with jax.default_device(jax.devices("cpu")[0]):
            want = np.asarray(planes_gradient(case, "xla")(*arrays_of(case)))
        error = float(np.max(np.abs(first - want)) / np.max(np.abs(want)))
        report.check(f"planes {name}", error < MOST_ERROR, f"{error:.1e}")
        arrays = arrays_of(case)
        same = sum(np.array_equal(first, gradient(*arrays)) for _ in range(REPEATS))
        report.check(
            f"planes {name} repeats", same == REPEATS, f"{same} of {REPEATS} bit-identical"
        )
        order = np.random.default_rng(1).permutation(case.points.shape[2])
        case.points, case.cotangents = case.points[:, :, order], case.cotangents[:, :, order]
        same = np.array_equal(first, gradient(*arrays_of(case)))
        report.check(f"planes {name} order", same, f"same bits {same}")
        case.cotangents[0, 0, 0, 0] = np.inf
        lost = np.all(np.isnan(gradient(*arrays_of(case))))
        report.check(f"planes {name} not finite", lost, f"all NaN {lost}")


def milliseconds(call: Callable[[], jax.Array]) -> dict[str, float]:
    """Time of a call among `CALLS`; median and percentiles of `TIMES` repeats."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(CALLS)])
        seconds.append((time.perf_counter() - start) / CALLS)
    return spread(seconds)


def time_planes() -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds of the gradient of the tables: by case, then implementation."""
    cases = {name: make_case(**PLANES[name]) for name in ("hash", "dense")}
    cases["hash, half dead"] = like_training(make_case(**PLANES["hash"]))
    times = {}
    for name, case in cases.items():
        arrays = arrays_of(case)
        times[f"planes {name}"] = {
            implementation: milliseconds(
                partial(planes_gradient(case, implementation), *arrays)
            )
            for implementation in ("xla", "triton")
        }  # fmt: skip
    return times


def report_times(report: Report, times: dict[str, dict[str, dict[str, float]]]) -> None:
    """A line per case, which passes if Triton is the faster one."""
    for name, by_implementation in times.items():
        medians = {key: value["median_ms"] for key, value in by_implementation.items()}
        detail = ", ".join(f"{key} {value:.3f} ms" for key, value in medians.items())
        report.check(f"time {name}", medians["triton"] < medians["xla"], detail)


def main() -> int:
    """Run the checks; returns the exit status."""
    report = Report()
    check_planes(report)
    report_times(report, time_planes())
    return report.finish("check_training_kernels_gpu", RESULTS)


if __name__ == "__main__":
    sys.exit(main())
