"""Time to a picture: from sound features, eyes, pose and camera to bytes on the device or the host.

Claim: a call that is waited for is several times as fast as the original's code, which was measured
apart in the same way (`results/peers.json`: an NVIDIA H200, 50,000 Gaussians at 512 px, everything
on the device, each call synchronized). Calls that are not waited for, as in a film, take less yet;
that has no peer. Cases: the synthetic head (`kernels.rasterize.cases.head_case` under random
networks) and, with --run, a trained avatar; each drawn exactly and, as "baked", by codes (the
patterns of a synthetic one are random and small: what its pictures cost counts). Measured: each of
`--calls` calls alone, synchronized (p50, p95, p99); the same calls without waiting in between; and,
by short turns with the first, the calls with arguments from the host and pictures back (frames over
backgrounds of their own, over one plate, and as JAX copies by itself, to new memory); kernel times
by stage and per call (torch's profiler, last, because it slows down what follows); memory. Of the
original's case and the trained avatar also the training's own forward pass in the same run, which
is what all this saves, and how far exact pictures are from those that XLA makes in float32
throughout. Copies and kernels of other cases are measured in a tenth of the calls.

    python -m experiments.bench_inference [--run RUN] [--calls 1000] [--main] [--plot-only] [--tiny]
    python -m experiments.bench_inference --bodies [--calls 1000]
    python -m experiments.bench_inference --lips [--calls 1000]

adds to `results/bench_inference.json` (`--main`: of 50,000 Gaussians at 512 and 1024 px alone, at
batch 1 and 16) and draws `figures/inference.png`; the second, the same
Gaussians as a head's and as a person's, `results/bench_bodies.json` (claim: a person takes at most
1.25 times as long); the third, the same person with learned and with fitted lips,
`results/bench_lips.json` (claim: fitted lips cost no time). `--tiny` runs a small case on any
machine (tests).

Floors of a frame for 50,000 Gaussians at 512 px, estimated before the kernels were written: of
`deform` 19 GFLOP on tensor cores and 41 MB, 24 us at 790 TFLOP/s and 10 us at 4.3 TB/s; of
rasterizing 40-50 us in batches, 70-100 alone; of the tokens under 10 MFLOP, a few launches of 2 us.
"""

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from egs_jax.avatar import draw as infer
from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.precomputed import Drawable
from egs_jax.avatar.to_host import by_locked_memory
from egs_jax.config import Config
from egs_jax.model import forward as model
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import keep_programs
from egs_jax.runtime.errors import InputError
from egs_jax.types import Drive, Params
from experiments import _plots
from experiments._drawn_scenes import SYNTHETIC, Scene, synthetic, trained
from experiments._runs import add_case, parsed, run_main, to_draw
from kernels import compile_kernels

NAME, FIGURE, BODIES, LIPS = "bench_inference", "inference", "bench_bodies", "bench_lips"
COMPILERS = 6
"""Programs that are compiled at a time."""
TURNS, NOT_TIMED = 20, 5
"""Turns of each way that is timed, and its calls at the begin of each that do not count."""
STAGES = {
    "tokens": ("tokens_kernel", "mix_kernel"),
    "deform": ("deform_kernel",),
    "motion": ("codes_kernel",),
    "rasterize": ("project_kernel", "scan_kernel", "emit_kernel", "bounds_kernel",
                  "gather_kernel", "sort_kernel", "deal_kernel", "forward_kernel"),
}  # fmt: skip


def percentiles(milliseconds: list[float], name: str) -> dict[str, float]:
    """Return p50, p95 and p99 of times, under names."""
    return {
        f"{name}_p{q}_ms": round(float(np.percentile(milliseconds, q)), 4) for q in (50, 95, 99)
    }


def clocked(call: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def by_turns(ways: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Time as many calls of each way as are asked for, a part of them at each of its turns.

    A host's threads are woken sooner or later for a while: all ways meet all of that.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name, (way, calls) in ways.items():
            own = len(range(turn, calls, TURNS))
            for _ in range(NOT_TIMED if own else 0):
                way()
            times[name] += [clocked(way) for _ in range(own)]
    told: dict[str, float] = {}
    for name, found in times.items():
        told |= percentiles(found, name)
    return told


def walls(scene: Scene, kept: Drawable, batch: int, calls: int, copies: int) -> dict:
    """Time calls of one way to draw by the clock, and tell their memory."""
    host = scene.drive(batch)
    rest = jax.device_put(host.replace(backgrounds=None))
    pictures = jax.device_put(host.backgrounds)

    def step() -> None:
        # What was drawn is the next background, so that a donated buffer is there every time.
        nonlocal pictures
        pictures = infer.draw_program()(scene.config, kept, rest, pictures).rgb

    def unlocked() -> None:
        drawn = infer.draw_program()(
            scene.config, kept, host.replace(backgrounds=None), host.backgrounds
        )
        jax.device_get(drawn)

    plate = np.broadcast_to(host.backgrounds[0], host.backgrounds.shape)
    over_plate = host.replace(backgrounds=plate)
    ways = {
        "call": (lambda: (step(), jax.block_until_ready(pictures)), calls),
        "host_call": (lambda: by_locked_memory(scene.config, kept, host), copies),
        "plate_call": (lambda: by_locked_memory(scene.config, kept, over_plate), copies),
        "unlocked_call": (unlocked, copies),
    }

    for _ in range(max(3, calls // 20)):
        step()
    jax.block_until_ready(pictures)
    began = time.perf_counter()
    for _ in range(calls):
        step()
    jax.block_until_ready(pictures)
    streaming = (time.perf_counter() - began) / calls * 1e3
    compiled = infer.draw_program().lower(scene.config, kept, rest, pictures).compile()
    memory = compiled.memory_analysis()
    return {
        **by_turns(ways),
        "streaming_ms_a_frame": round(streaming / batch, 4),
        "memory_mb": round((memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20, 1),
        "kept_mb": round(sum(leaf.nbytes for leaf in jax.tree.leaves(kept)) / 2**20, 1),
    }


def kernels(scene: Scene, kept: Drawable, batch: int, calls: int) -> dict:
    """Time kernels of one way to draw by stage and call; nothing without a GPU and torch."""
    if jax.default_backend() != "gpu":
        return {}
    import torch

    rest, pictures = scene.drive(batch), jax.device_put(scene.drive(batch).backgrounds)
    rest = jax.device_put(rest.replace(backgrounds=None))
    jax.block_until_ready((rest, pictures))  # no copy of theirs among the kernels
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            pictures = infer.draw_program()(scene.config, kept, rest, pictures).rgb
        jax.block_until_ready(pictures)
        torch.cuda.synchronize()
    on_gpu = (e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA)
    events = sorted(on_gpu, key=lambda event: event.time_range.start)
    if len(events) % calls:
        raise RuntimeError(f"{len(events)} kernels in {calls} calls: not the same in every call")
    per_call = np.array([event.time_range.elapsed_us() for event in events]).reshape(calls, -1)
    stages: dict[str, float] = {}
    for event, us in zip(events, per_call.mean(axis=0), strict=False):
        known = (name for name, parts in STAGES.items() if any(p in event.name for p in parts))
        stage = next(known, "other")
        stages[stage] = stages.get(stage, 0.0) + us / batch
    return {
        "kernels_a_call": per_call.shape[1],
        **percentiles((per_call.sum(axis=1) / 1e3).tolist(), "device"),
        "stages_us_a_frame": {name: round(us, 2) for name, us in stages.items()},
    }


@functools.partial(jax.jit, static_argnums=0)
def forward_pass(config: Config, params: Params, alive: jax.Array, drive: Drive) -> jax.Array:
    """Draw pictures by the training's own forward pass."""
    return model.forward(config, params, alive, drive, "deform")[0].rgb


exact_pictures = jax.jit(prepared.render, static_argnums=0)
COMPARED = 4
"""Frames of a batch that are compared with float32's."""


@functools.partial(jax.jit, static_argnums=0)
def in_float32(config: Config, params: Params, alive: jax.Array, drive: Drive) -> jax.Array:
    """Draw so with no matrix product rounded."""
    with jax.default_matmul_precision("highest"):
        return forward_pass(config, params, alive, drive)


def exact(scene: Scene, batch: int) -> tuple:
    """Return the arguments of `in_float32`, which has no Triton kernel round anything either."""
    config = dataclasses.replace(scene.config, rasterizer="xla")
    drive = jax.tree.map(lambda v: v[:COMPARED], scene.drive(batch))
    return config, scene.params, scene.alive, drive


def before(scene: Scene, batch: int, calls: int) -> dict:
    """Time the training's forward pass on the same frames; compare pictures with float32's."""
    drive = jax.device_put(scene.drive(batch))

    call = lambda: jax.block_until_ready(
        forward_pass(scene.config, scene.params, scene.alive, drive)
    )
    call()
    wanted = np.asarray(in_float32(*exact(scene, batch)))
    times = [clocked(call) for _ in range(max(3, calls // 20))]
    got = np.asarray(exact_pictures(scene.config, scene.kept, drive).rgb)[:COMPARED]
    error = np.mean(np.square(got.clip(0, 1) - wanted.clip(0, 1)))
    return {
        "forward_pass_ms_a_frame": round(float(np.median(times)) / batch, 4),
        "psnr_to_float32_db": round(float(-10 * np.log10(max(error, 1e-12))), 1),
    }


def is_originals(scene: Scene) -> bool:
    """Say if the original's code was measured on an avatar of this size."""
    return (scene.gaussians, scene.size) == (50_000, 512)


def is_main(scene: Scene) -> bool:
    """Say if an avatar is trained, or one on which the original's code was measured."""
    return is_originals(scene) or not scene.name.startswith(SYNTHETIC)


def programs(scene: Scene, batch: int) -> Iterator[tuple[Callable, tuple]]:
    """Yield what is measured of a scene at a batch, with its arguments."""
    drive = scene.drive(batch)
    rest = drive.replace(backgrounds=None)
    for kept in (scene.kept, scene.baked):
        yield infer.draw_program(), (scene.config, kept, rest, drive.backgrounds)
    if is_main(scene):
        yield in_float32, exact(scene, batch)
        yield forward_pass, (scene.config, scene.params, scene.alive, drive)
        yield exact_pictures, (scene.config, scene.kept, drive)


def compile_all(pairs: list[tuple[Scene, int]]) -> float:
    """Run every program once, compiling several at a time; returns the seconds."""

    def first(call: tuple[Callable, tuple]) -> None:
        program, arguments = call
        compile_kernels(program, *arguments)
        jax.block_until_ready(program(*arguments))

    began = time.perf_counter()
    calls = itertools.chain.from_iterable(programs(*pair) for pair in pairs)
    with ThreadPoolExecutor(COMPILERS) as pool:
        collections.deque(pool.map(first, calls), maxlen=0)
    return time.perf_counter() - began


def measured(scene: Scene, batch: int, calls: int, fewer: int) -> dict:
    """Measure a scene at a batch by the clock."""
    case = dict(name=scene.name, gaussians=scene.gaussians, size=scene.size, batch=batch)
    case |= walls(scene, scene.kept, batch, calls, fewer)
    case["baked"] = walls(scene, scene.baked, batch, calls, fewer)
    if is_main(scene) or calls < 10:
        case |= before(scene, batch, calls)
    print(case, flush=True)
    return case


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the figure."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--plot-only", action="store_true")
    parser.add_argument("--main", action="store_true", help="one case of the synthetic ones")
    parser.add_argument("--bodies", action="store_true")
    parser.add_argument("--lips", action="store_true")
    arguments = parsed(parser, argv)
    if arguments.calls < 1:
        raise InputError(f"--calls: got {arguments.calls}, expected at least 1")
    if arguments.bodies:
        scenes = [synthetic(50_000, 512, "paper", body) for body in ("head", "person")]
        return measure_all(BODIES, scenes, (1, 16), arguments.calls, arguments.out)
    if arguments.lips:
        person = functools.partial(synthetic, 50_000, 512, "paper", "person")
        scenes = [person(lips=lips) for lips in ("learned", "fitted")]
        return measure_all(LIPS, scenes, (1, 5, 16), arguments.calls, arguments.out)
    if arguments.tiny and not arguments.plot_only:
        measure_all(NAME, [synthetic(500, 48, "paper", hash_levels=1)], (2,), 3, arguments.out)
    elif not arguments.plot_only:
        main_scenes = (synthetic(50_000, size, "paper") for size in (512, 1024))
        scenes = list(main_scenes) if arguments.main else all_scenes(arguments.run)
        batches = (1, 16) if arguments.main else (1, 4, 16)
        measure_all(NAME, scenes, batches, arguments.calls, arguments.out)
    path = arguments.figures / f"{FIGURE}.png"
    _plots.inference(to_draw(NAME, arguments.out), path)
    return path


def all_scenes(run_dir: Path | None) -> list[Scene]:
    """Make what is measured: a trained avatar if there is one, and heads of several sizes."""
    scenes = [] if run_dir is None else [trained(run_dir)]
    scenes += [synthetic(50_000, 512, name) for name in ("paper", "parity")]
    shapes = itertools.product((20_000, 50_000, 100_000), (512, 1024))
    return scenes + [synthetic(*shape, "paper") for shape in shapes if shape != (50_000, 512)]


def measure_all(
    name: str, scenes: list[Scene], batches: tuple[int, ...], calls: int, folder: Path
) -> Path:
    """Measure every scene at every batch, and write what is there after each."""
    keep_programs()  # what is asked of their memory would compile them once more
    pairs = list(itertools.product(scenes, batches))
    print(f"compiled in {compile_all(pairs):.1f} s", flush=True)
    fewer = [calls if is_main(scene) else max(3, calls // 10) for scene, _ in pairs]
    key = lambda case: tuple(case[each] for each in ("name", "gaussians", "size", "batch"))
    found = []
    for (scene, batch), few in zip(pairs, fewer, strict=True):
        found.append(measured(scene, batch, calls, few))
        add_case(name, found[-1], key, folder)  # whatever comes
    for case, (scene, batch), few in zip(found, pairs, fewer, strict=True):
        case.update(kernels(scene, scene.kept, batch, few))
        case["baked"].update(kernels(scene, scene.baked, batch, few))
        add_case(name, case, key, folder)
    return folder / f"{name}.json"


if __name__ == "__main__":
    run_main(main)
