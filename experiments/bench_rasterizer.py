"""Our rasterizer and gsplat on the same inputs in one run: time, kernel time, memory, instances.

Claim: on heads ours is faster than gsplat, forward and backward, one frame and eight. The scene is
`kernels.rasterize.cases.head_case`; harmonics of degree 3, a background per pixel, the gradient of
an L1 loss for all parameters. Images are compared first. Wall times are medians of seven repeats of
a tenth of a second each, ours and gsplat's in turn, with one synchronization at the end of each
repeat, and their range; kernel times are sums from the profiler (of torch, which sees the kernels
of both), by stage.

    python -m experiments.bench_rasterizer [--cases small] [--ours] [--out FOLDER]

writes `results/bench_rasterizer.json`; about five minutes. Needs an NVIDIA GPU, torch and gsplat;
`--ours` leaves gsplat out, and kernel times too where there is no torch. Set
XLA_PYTHON_CLIENT_PREALLOCATE=false so that both find memory. All times are a frame's; memory is a
call's, without what it is given.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.runtime.arguments import Parser
from experiments._common import RESULTS, record, require_triton
from experiments._runs import run_main
from kernels import RasterizeOutput, rasterize
from kernels.rasterize.cases import head_case

PARAMS = ("means", "quats", "scales", "opacities", "colors")
SMALL = [(50_000, 512, 1.6, 1), (50_000, 512, 1.6, 8)]
ALL = [(n, size, 1.6, b) for size in (512, 1024) for n in (20_000, 50_000, 100_000) for b in (1, 8)]
ALL += [(50_000, 512, 2.5, 1), (50_000, 512, 2.5, 8)]
ALPHA_MAX = 0.999  # gsplat's
REPEATS, REPEAT_SECONDS = 7, 0.1


# Parts of the kernels' names by stage, ours and gsplat's; the first that fits counts. "instances":
# the (Gaussian, tile) pairs are counted and written; "lists": they are put in order, tile by tile
# and by depth; ours are dealt out to quarters of tiles in the same kernel.
STAGES = {
    "other": ("at::native",),
    "projection backward": ("project_backward", "ewa_3dgs_fused_bwd", "spherical_harmonics_bwd"),
    "projection": ("project_kernel", "ewa_3dgs_fused_fwd", "spherical_harmonics_fwd"),
    "blend backward": ("backward_kernel", "rasterize_to_pixels_3dgs_bwd"),
    "gradient sums": ("reduce_kernel",),
    "blend": ("forward_kernel", "rasterize_to_pixels_3dgs_fwd"),
    "instances": ("scan_kernel", "emit_kernel", "intersect_tile", "DeviceScan"),
    "lists": ("bounds_kernel", "gather_kernel", "sort_kernel", "deal_kernel", "RadixSort",
              "intersect_offset"),
}  # fmt: skip
# Forward and both ways, a frame, by batch; estimated from counts of instructions and bytes before
# the kernels were written. For 50,000 Gaussians at 512 px, splats of 1.6 px.
FLOORS_US = {1: ([70, 100], [150, 200]), 8: ([40, 50], [105, 125])}


def wall_us(calls: list[Callable], waits: list[Callable]) -> list[list[float]]:
    """Return median, least and most time of each call over repeats, which take turns.

    A repeat is as many calls as take about `REPEAT_SECONDS`, synchronized after the last.
    """

    def seconds(call: Callable, wait: Callable, n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            result = call()
        wait(result)
        return time.perf_counter() - start

    counts, times = [], [[] for _ in calls]
    for pair in zip(calls, waits, strict=True):
        seconds(*pair, 5)  # compilation and warm-up
        counts.append(max(5, round(REPEAT_SECONDS * 20 / seconds(*pair, 20))))
    for _ in range(REPEATS):
        for kept, call, wait, n in zip(times, calls, waits, counts, strict=True):
            kept.append(seconds(call, wait, n) / n * 1e6)
    return [[float(np.median(kept)), min(kept), max(kept)] for kept in times]


def kernel_us(call: Callable, wait: Callable, n: int = 10) -> dict[str, float] | None:
    """Return sum of the kernels' own times per call, by stage; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(n):
            result = call()
        wait(result)
        torch.cuda.synchronize()
    stages = {}
    for event in profile.key_averages():
        known = (name for name, parts in STAGES.items() if any(p in event.key for p in parts))
        stage = next(known, "other")
        stages[stage] = stages.get(stage, 0.0) + event.self_device_time_total / n
    return stages


class Contender(NamedTuple):
    """One rasterizer on one scene."""

    name: str
    forward: Callable
    step: Callable
    wait: Callable  # until what a call returned is there
    image: np.ndarray
    facts: dict  # versions, instances and memory

    def calls(self) -> dict[str, Callable]:
        """Return calls by their name in the record."""
        return {"fwd": self.forward, "fwd_bwd": self.step}


def wall_times(contenders: list[Contender], batch: int) -> list[dict]:
    """Return wall times of each [microseconds per frame]."""
    found = [{} for _ in contenders]
    waits = [contender.wait for contender in contenders]
    for name in contenders[0].calls():
        calls = [contender.calls()[name] for contender in contenders]
        for case, times in zip(found, wall_us(calls, waits), strict=True):
            median, least, most = (round(us / batch, 1) for us in times)
            case |= {f"{name}_us": median, f"{name}_us_range": [least, most]}
    return found


def kernel_times(contender: Contender, batch: int) -> dict:
    """Return kernel times [microseconds per frame]; nothing without torch."""
    case = {}
    for name, call in contender.calls().items():
        stages = kernel_us(call, contender.wait)
        if stages is not None:
            case[f"{name}_kernel_us"] = round(sum(stages.values()) / batch, 1)
            case[f"{name}_stages_us"] = {k: round(v / batch, 1) for k, v in stages.items()}
    return case


def pixels_off(image: np.ndarray, wanted: np.ndarray) -> float:
    """Return share of the pixels that differ visibly to a program.

    Raises:
      RuntimeError: if they are many.
    """
    share = float(np.mean(np.abs(image - wanted).max(axis=-1) > 1e-4))
    if share > 1e-3:
        raise RuntimeError(f"images differ in {share:.2%} of the pixels")
    return share


def inputs(n: int, size: int, px: float, batch: int) -> tuple[dict, dict, np.ndarray]:
    """Return shared parameters, the frames' arrays, and a target image per frame."""
    case = head_case(n, size, px=px)
    frames = {k: np.stack([case[k]] * batch) for k in ("viewmats", "Ks")}
    rng = np.random.default_rng(1)
    frames["backgrounds"] = rng.random((batch, size, size, 3), np.float32)
    target = rng.random((batch, size, size, 3), np.float32)
    return {name: case[name] for name in PARAMS}, frames, target


def ours(params: dict, frames: dict, target: np.ndarray, implementation: str) -> Contender:
    """Prepare our calls on a scene."""
    params, frames, target = jax.device_put((params, frames, target))
    size = target.shape[1]

    def render(params: dict) -> RasterizeOutput:
        return rasterize(
            **params, **frames, width=size, height=size, sh_degree=3, alpha_max=ALPHA_MAX,
            implementation=implementation,
        )  # fmt: skip

    def loss(params: dict) -> jax.Array:
        return jnp.mean(jnp.abs(render(params).rgb - target))

    def image(params: dict) -> tuple:
        out = render(params)
        return out.rgb, out.aux.n_instances, out.aux.overflow

    packages = ("jax-triton", "triton") if implementation == "triton" else ()
    facts, calls = dict(versions={name: metadata.version(name) for name in packages}), []
    for name, function in (("fwd", image), ("fwd_bwd", jax.value_and_grad(loss))):
        compiled = jax.jit(function)
        memory = compiled.lower(params).compile().memory_analysis()
        size_of = memory.temp_size_in_bytes + memory.output_size_in_bytes
        facts[f"{name}_memory_mb"] = round(size_of / 2**20, 1)
        calls.append(partial(compiled, params))
    rgb, n_instances, overflow = map(np.asarray, calls[0]())
    facts |= dict(instances_per_frame=int(n_instances[0]), overflow=int(overflow.max()))
    return Contender("ours", calls[0], calls[1], jax.block_until_ready, rgb, facts)


def theirs(params: dict, frames: dict, target: np.ndarray) -> Contender:
    """Prepare the peer's calls on the same scene."""
    import torch
    from gsplat import rasterization

    put = lambda value: torch.from_numpy(np.array(value)).cuda()
    params = [put(params[name]) for name in PARAMS]
    viewmats, Ks, background = (put(frames[k]) for k in ("viewmats", "Ks", "backgrounds"))
    target = put(target)
    batch, size = target.shape[:2]
    leaves = [value.clone().requires_grad_() for value in params]

    def render(values: list) -> tuple:
        rgb, alpha, info = rasterization(
            *values, viewmats, Ks, size, size, sh_degree=3, packed=False
        )  # fmt: skip
        return rgb + (1 - alpha) * background, info

    def forward() -> object:
        with torch.no_grad():
            return render(params)[0]

    def step() -> None:
        (render(leaves)[0] - target).abs().mean().backward()
        for leaf in leaves:
            leaf.grad = None

    with torch.no_grad():
        tiles = render(params)[1]["tiles_per_gauss"]
    facts = dict(versions={name: metadata.version(name) for name in ("gsplat", "torch")})
    facts["instances_per_frame"] = int(tiles.sum()) // batch
    for name, call in (("fwd", forward), ("fwd_bwd", step)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peak = torch.cuda.max_memory_allocated() - before
        facts[f"{name}_memory_mb"] = round(peak / 2**20, 1)
    image = forward().cpu().numpy()  # type: ignore[attr-defined]
    return Contender("gsplat", forward, step, lambda _: torch.cuda.synchronize(), image, facts)


def run(shapes: list[tuple], with_peer: bool, implementation: str) -> list[dict]:
    """Measure cases, ours and the peer's in turn; the profiler, which slows down all, comes last.

    Raises:
      RuntimeError: if the images differ.
    """
    cases, contenders = [], []
    for n, size, px, batch in shapes:
        scene = inputs(n, size, px, batch)
        both = [ours(*scene, implementation)] + ([theirs(*scene)] if with_peer else [])
        facts = dict(n=n, size=size, px=px, batch=batch)
        new = [dict(name=contender.name) | facts | contender.facts for contender in both]
        if with_peer:
            new[0]["pixels_off"] = pixels_off(both[0].image, both[1].image)
        if (n, size, px) == (50_000, 512, 1.6):
            new[0] |= dict(zip(("fwd_floor_us", "fwd_bwd_floor_us"), FLOORS_US[batch], strict=True))
        for case, times in zip(new, wall_times(both, batch), strict=True):
            case.update(times)
        print(*new, sep="\n", flush=True)
        contenders += both
        cases += new
    for case, contender in zip(cases, contenders, strict=True):
        case.update(kernel_times(contender, case["batch"]))
    if with_peer:
        for case, peer in zip(cases[::2], cases[1::2], strict=True):
            for key in ("fwd_us", "fwd_kernel_us", "fwd_bwd_us", "fwd_bwd_kernel_us"):
                case[f"{key}_ratio"] = round(peer[key] / case[key], 2)
    return cases


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", choices=("all", "small"), default="all")
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--implementation", choices=("triton", "xla"), default="triton")
    parser.add_argument("--out", type=Path, help="folder; needed for less than the whole benchmark")
    arguments = parser.parse_args(argv)
    is_part = arguments.cases == "small" or arguments.ours or arguments.implementation == "xla"
    if is_part and not arguments.out:
        parser.error("README shows the whole benchmark: name another folder by --out")
    if arguments.implementation == "triton":
        require_triton()
    shapes = SMALL if arguments.cases == "small" else ALL
    cases = run(shapes, not arguments.ours, arguments.implementation)
    return record("bench_rasterizer", cases, arguments.out or RESULTS)


if __name__ == "__main__":
    run_main(main)
