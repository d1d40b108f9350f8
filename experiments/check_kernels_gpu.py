"""The Triton rasterizer on a GPU: right, repeatable, and the same on several GPUs.

Claim: on every scene of `kernels.rasterize.cases`, with every kind of depth and antialiased, it
equals the XLA implementation, which runs on the CPU in float32, and the dense definition in float64
(`kernels.rasterize.reference`); on the head scene it equals gsplat, where that is installed; 100
repeats of a gradient give the same bits; other counts of instances compile nothing anew; two GPUs
give what one gives. Takes about six minutes.

    python -m experiments.check_kernels_gpu [--out FOLDER]
    compute-sanitizer --error-exitcode 9 python -m experiments.check_kernels_gpu --small

prints a line per check, writes `results/check_kernels_gpu.json`, and exits with 1 if one fails.
`--small`: only the small scenes against the XLA implementation, every kernel and every array by
itself (with XLA_PYTHON_CLIENT_ALLOCATOR=platform an allocation), for the memory checker; writes
nothing.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from egs_jax.runtime.arguments import Parser
from experiments._common import RESULTS, Report, Result, require_triton
from experiments._raster_scenes import (
    EXTRA,
    OPTIONS,
    SHARED,
    head_frames,
    make_scene,
    split,
)
from experiments._runs import run_main
from kernels import RasterizeAux, blend, project, rasterize, tile_lists
from kernels.rasterize.cases import CASES, head_case
from kernels.rasterize.reference import rasterize_reference

REPEATS = 100
CLOSE = 1e-5  # of an image
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event, one a compilation
WORKERS = 7


def noise_like(images: tuple) -> tuple:
    """Draw one fixed random cotangent per image."""
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=image.shape).astype(np.float32) for image in images)


class Drawn(NamedTuple):
    """Images and gradients that one implementation makes of a scene."""

    images: tuple[np.ndarray, ...]  # color, alpha, depth
    aux: RasterizeAux
    pullback: Callable[[tuple], dict]  # cotangents of the images -> gradients by name


def draw(arrays: dict, static: dict, implementation: str, jit: bool = True) -> Drawn:
    """Draw a scene; the reference on the CPU, so that a GPU runs nothing but the kernels.

    Without `jit` every kernel is a program by itself and every array an allocation by itself.
    """

    def images(arrays: dict) -> tuple:
        out = rasterize(**arrays, **static, implementation=implementation)
        return (out.rgb, out.alpha, out.depth), out.aux

    device = jax.devices("cpu" if implementation == "xla" else None)[0]
    with jax.default_device(device), jax.disable_jit(not jit):
        images_, pullback, aux = jax.vjp(images, jax.device_put(arrays, device), has_aux=True)

    def pull(cotangents: tuple) -> dict:
        with jax.default_device(device), jax.disable_jit(not jit):
            return jax.tree.map(np.asarray, pullback(jax.device_put(cotangents, device))[0])

    images_, aux = jax.tree.map(np.asarray, (images_, aux))
    return Drawn(images_, aux, pull)


def differences(got: tuple, want: tuple) -> np.ndarray:
    """Return the largest difference of a pixel, of each image as a share of its largest or 1."""
    off = [np.abs(a - b) / max(1.0, np.max(np.abs(b))) for a, b in zip(got, want, strict=True)]
    return np.max([d.max(axis=-1) if d.ndim > off[1].ndim else d for d in off], axis=0)


def gradient_error(got: dict, want: dict) -> float:
    """Return the largest difference, relative to the largest number of each gradient."""
    worst = 0.0
    for name, b in want.items():
        scale = float(np.max(np.abs(b), initial=0.0))
        difference = float(np.max(np.abs(got[name] - b), initial=0.0))
        worst = max(worst, difference / scale if scale else difference)
    return worst


def compare(arrays: dict, static: dict, jit: bool = True) -> tuple[bool, str, Drawn, Drawn]:
    """Compare Triton with XLA: if they agree, in words, and both.

    Float32 decides a few pairs at the alpha floor, and a few stops, either way: one pixel in
    10,000 may be off, by not much more than the floor, and is left out of the gradient's loss.
    For the same reason one pair of a splat and a tile in 10,000 may be listed by one of them only.
    """
    got, want = draw(arrays, static, "triton", jit), draw(arrays, static, "xla")
    off = differences(got.images, want.images)
    flipped = off > CLOSE
    agreed = float(np.max(off, where=~flipped, initial=0.0))
    worst, share = float(np.max(off, initial=0.0)), float(np.mean(flipped))
    noise = tuple(
        np.where(flipped if n.ndim == flipped.ndim else flipped[..., None], 0, n)
        for n in noise_like(got.images)
    )
    gradient = gradient_error(got.pullback(noise), want.pullback(noise))
    counts = [int(np.sum(drawn.aux.n_instances)) for drawn in (got, want)]
    may_jump = static.get("depth_kind") == "median"  # from splat to splat
    # The expected depth is divided by alpha, which is small at a splat's border.
    most = 5e-4 if static.get("depth_kind") == "expected" else 1e-4
    passes = share < 1e-4 and (worst < 2 / 255 or may_jump)
    passes = passes and gradient < most and abs(counts[0] - counts[1]) <= 1e-4 * counts[1]
    detail = f"image {agreed:.1e}, gradients {gradient:.1e}, {counts[0]:,} instances"
    if counts[0] != counts[1]:
        detail += f" ({counts[0] - counts[1]:+})"
    if flipped.any():
        detail += f"; {flipped.sum()} pixels ({100 * share:.4f} %) off by up to {worst:.1e}"
    return passes, detail, got, want


def check_scene(name: str, jit: bool = True) -> list[Result]:
    """Check a scene against XLA; one of them also at full and overfull capacity."""
    arrays, static = split(make_scene(name))
    passes, detail, got, _ = compare(arrays, static, jit)
    results = [Result(f"xla {name}", passes, detail)]
    count = int(np.sum(got.aux.n_instances))
    for spare in (0, -1) if name == "tiny" else ():
        limited = static | dict(capacity=count + spare)
        passes, detail, got, _ = compare(arrays, limited, jit)
        passes = passes and int(got.aux.overflow) == -spare
        results.append(Result(f"capacity {name} {spare:+}", passes, detail))
    return results


def check_oracle(name: str) -> list[Result]:
    """Check a small scene against the dense oracle in float64, away from thresholds."""
    arrays, static = split(make_scene(name))
    alive = static.pop("alive", jnp.ones(len(arrays["means"]), bool))
    size = (static["height"], static["width"])

    def images(wide: dict) -> tuple:
        pairs = jnp.broadcast_to(alive[:, None, None], (len(alive), *size))
        out = rasterize_reference(
            wide, static["width"], static["height"], pairs=pairs,
            **{k: v for k, v in static.items() if k in ("sh_degree", "depth_kind", "antialias")},
        )  # fmt: skip
        return out[:3], out[3]

    def of_noise(wide: dict) -> tuple:
        out, pullback, safe = jax.vjp(images, wide, has_aux=True)
        wide_noise = (jnp.asarray(n, jnp.float64) for n in noise_like(out))
        noise = tuple(n * (safe if n.ndim == 2 else safe[..., None]) for n in wide_noise)
        return out, safe, noise, pullback(noise)[0]

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = {k: jnp.asarray(np.asarray(v), jnp.float64) for k, v in arrays.items()}
        hurried = {"xla_backend_optimization_level": 0}  # compiling takes longer than running
        oracle = jax.jit(of_noise, compiler_options=hurried)(wide)
        out, safe, noise, gradients = jax.tree.map(np.asarray, oracle)
    noise = tuple(n.astype(np.float32) for n in noise)
    got = draw(arrays, static | dict(alive=alive), "triton")
    image = float(np.max(differences(got.images, out), where=safe, initial=0.0))
    gradient = gradient_error(got.pullback(noise), gradients)
    passes = image < CLOSE and gradient < 1e-4
    return [Result(f"float64 {name}", passes, f"image {image:.1e}, gradients {gradient:.1e}")]


def check_repeats(report: Report) -> None:
    """Check that the bits are the same every time."""
    shared, frames, static = head_frames(4)

    @jax.jit
    def gradient(shared: dict, frames: dict) -> dict:
        def loss(shared: dict) -> jax.Array:
            out = rasterize(**shared, **frames, **static, implementation="triton")
            return jnp.sum(out.rgb**2) + jnp.sum(out.depth) + jnp.sum(out.alpha**2)

        return jax.grad(loss)(shared)

    first = jax.tree.map(np.asarray, gradient(shared, frames))
    same = sum(
        all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(first), jax.tree.leaves(gradient(shared, frames)), strict=True
            )
        )
        for _ in range(REPEATS)
    )
    report.check("repeats", same == REPEATS, f"{same} of {REPEATS} bit-identical")


def check_bytes(report: Report) -> None:
    """Check that what is shown, over bytes, is what is drawn, rounded."""
    shared, frames, static = head_frames(4)
    behind = np.random.default_rng(2).integers(0, 256, frames["backgrounds"].shape, np.uint8)
    draw = jax.jit(
        partial(rasterize, **shared, **frames | dict(backgrounds=behind), **static,
                implementation="triton"),
        static_argnames="as_bytes",
    )  # fmt: skip
    exact, shown = draw(), draw(as_bytes=True)
    for name in ("rgb", "alpha"):
        want = np.rint(255 * np.clip(getattr(exact, name), 0, 1))
        off = np.abs(np.asarray(getattr(shown, name), np.float32) - want)
        passes = off.max() <= 1 and np.mean(off) < 1e-3
        report.check(f"bytes {name}", passes, f"{100 * np.mean(off):.4f} % off by {off.max():.0f}")


def check_compilations(report: Report) -> None:
    """Check that scenes of one shape and very different counts compile nothing anew."""
    shared, frames, static = head_frames(2)
    scales, compiled = np.asarray(shared["scales"]), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event == COMPILED else None
    )

    def gradient(scales: jax.Array, alive: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(scales: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = rasterize(
                **shared | dict(scales=scales), **frames, **static, alive=alive,
                implementation="triton",
            )  # fmt: skip
            return jnp.sum(out.rgb**2), out.aux.n_instances

        return jax.grad(loss, has_aux=True)(scales)

    n = len(scales)
    scenes = [
        (scales * np.float32(factor), np.arange(n) < count)
        for factor, count in ((1, n), (4, n), (0.2, n // 2), (1, n // 100), (1, 0))
    ]
    pairs = [
        tuple(map(np.stack, zip(*two, strict=True)))
        for two in zip(scenes, scenes[::-1], strict=True)
    ]
    for name, call, inputs in (
        ("jit", jax.jit(gradient), scenes),
        ("no jit", gradient, scenes),
        ("vmap", jax.vmap(gradient), pairs),
    ):
        compiled.clear()
        call(*inputs[0])
        first = len(compiled)
        counts = [int(np.asarray(call(*scene)[1]).sum()) for scene in inputs[1:]]
        more = len(compiled) - first
        report.check(
            f"no recompilation, {name}", first > 0 and more == 0,
            f"XLA compiled {first} program(s) for the first call, {more} for {len(counts)} others "
            f"of {min(counts):,} to {max(counts):,} instances",
        )  # fmt: skip


def check_two_gpus(report: Report) -> None:
    """Check that frames split over two GPUs by `shard_map` have the loss and gradient of one."""
    if len(jax.devices()) < 2:
        print("skip two GPUs: this machine has one", flush=True)
        return
    shared, frames, static = head_frames(4)

    def loss(shared: dict, frames: dict) -> jax.Array:
        out = rasterize(**shared, **frames, **static, implementation="triton")
        return jnp.sum(out.rgb**2) + jnp.sum(out.alpha**2)

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    mapped = jax.shard_map(
        lambda shared, frames: jax.lax.psum(loss(shared, frames), "data"),
        mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec(),
    )  # fmt: skip
    one = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(shared, frames))
    two = jax.tree.map(np.asarray, jax.jit(jax.grad(mapped))(shared, frames))
    worst = max(float(np.max(np.abs(two[k] - one[k])) / np.max(np.abs(one[k]))) for k in one)
    report.check("two GPUs", worst < 1e-5, f"{worst:.1e} relative")


def check_gsplat(report: Report) -> None:
    """Check the head scene against gsplat at its own clamp: image and all gradients."""
    try:
        import gsplat
        import torch
    except ImportError as error:
        print(f"skip gsplat: {error}", flush=True)
        return
    arrays, static = split(head_case(50_000, 512))
    target = np.random.default_rng(1).random((512, 512, 3)).astype(np.float32)
    tensors = {k: torch.from_numpy(np.array(v)).cuda() for k, v in arrays.items()}
    camera = tensors["viewmats"][None], tensors["Ks"][None], 512, 512
    params = [tensors[name].requires_grad_() for name in SHARED]
    check_gsplat_options(report, gsplat.rasterization(
        *(p.detach() for p in params), *camera, sh_degree=3, packed=False, render_mode="RGB+ED",
        rasterize_mode="antialiased",
    ), arrays, static)  # fmt: skip

    def loss(shared: dict) -> tuple[jax.Array, jax.Array]:
        out = rasterize(**arrays | shared, **static, alpha_max=0.999, implementation="triton")
        return jnp.mean(jnp.abs(out.rgb - target)), out.rgb

    shared = {name: arrays[name] for name in SHARED}
    gradients, image = jax.tree.map(np.asarray, jax.jit(jax.grad(loss, has_aux=True))(shared))
    rgb, alpha, _ = gsplat.rasterization(*params, *camera, sh_degree=3, packed=False)
    rgb = (rgb + (1 - alpha) * tensors["backgrounds"])[0]
    (rgb - torch.from_numpy(target).cuda()).abs().mean().backward()
    off = float(np.mean(np.any(np.abs(rgb.detach().cpu().numpy() - image) > 1e-4, axis=-1)))
    report.check("gsplat image", off < 1e-4, f"{100 * off:.4f} % of pixels off by more than 1e-4")
    for name, param in zip(SHARED, params, strict=True):
        a, b = gradients[name].ravel().astype(float), param.grad.cpu().numpy().ravel().astype(float)
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        relative = np.linalg.norm(a - b) / np.linalg.norm(b)
        passes = cosine > 0.9999 and relative < 1e-3
        report.check(f"gsplat gradient {name}", passes, f"1 - cos {1 - cosine:.1e}, {relative:.1e}")


def check_gsplat_options(report: Report, theirs: tuple, arrays: dict, static: dict) -> None:
    """Check antialiased colors and the expected depth, where anything is, against gsplat's."""
    out = rasterize(
        **arrays | dict(backgrounds=None), **static, alpha_max=0.999, antialias=True,
        depth_kind="expected", implementation="triton",
    )  # fmt: skip
    images, alpha = (value[0].cpu().numpy() for value in theirs[:2])
    solid = alpha[..., 0] > 0.5
    for name, ours, image in (
        ("antialiased", out.rgb, images[..., :3]), ("expected depth", out.depth, images[..., 3])
    ):  # fmt: skip
        off = np.abs(np.asarray(ours) - image).reshape(512, 512, -1).max(axis=-1)
        share = float(np.mean(off[solid] > 1e-3))
        detail = f"{100 * share:.4f} % of pixels off by more than 1e-3"
        report.check(f"gsplat {name}", share < 1e-3 and bool(solid.any()), detail)


def check_xla_here(report: Report) -> None:
    """Check "xla" on the GPU: its forward mode is its reverse mode, its stages its whole."""
    arrays, static = split(make_scene("tiny median"))
    viewmats = arrays.pop("viewmats")

    def loss(viewmats: jax.Array) -> jax.Array:
        out = rasterize(**arrays, viewmats=viewmats, **static, implementation="xla")
        return jnp.sum(out.rgb**2) + jnp.sum(out.depth) + jnp.sum(out.alpha**2)

    forward, back = jax.jit(jax.jacfwd(loss))(viewmats), jax.jit(jax.grad(loss))(viewmats)
    worst = float(jnp.max(jnp.abs(forward - back)) / jnp.max(jnp.abs(back)))
    report.check("forward mode of xla", worst < 1e-4, f"{worst:.1e} relative to reverse mode")
    size = {name: static[name] for name in ("width", "height")}
    behind = arrays.pop("backgrounds")

    @jax.jit
    def composed(arrays: dict) -> tuple:
        splats = project(**arrays, viewmats=viewmats, **size, antialias=True)
        lists = tile_lists(splats, **size)
        return blend(splats, lists, **size, backgrounds=behind, depth_kind="median")[:3]

    more = dict(viewmats=viewmats, backgrounds=behind, implementation="xla")
    whole = jax.jit(lambda arrays: rasterize(**arrays, **more, **static)[:3])(arrays)
    same = all(np.array_equal(a, b) for a, b in zip(composed(arrays), whole, strict=True))
    report.check("stages of xla", same, "bit-identical" if same else "other bits")


def main(argv: list[str] | None = None) -> int:
    """Run the checks; returns the exit status."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes, torch
    require_triton()
    report, small = Report(), sorted(set(CASES) - {"head_512"})
    if arguments.small:
        optional = [f"{name} {option}" for name in ("opaque", "degenerate") for option in OPTIONS]
        report.check_all(partial(check_scene, jit=False), [*small, *optional], 1)
        return report.finish(None, arguments.out)
    scenes = [*EXTRA, "head_512", *small]
    scenes += [f"{name} {option}" for name in scenes for option in OPTIONS]
    report.check_all(check_scene, scenes, WORKERS)
    finite = [name for name in small if name not in ("non_finite", "empty")]
    finite += [f"{name} {option}" for name in finite for option in OPTIONS]
    report.check_all(check_oracle, finite, WORKERS)
    check_xla_here(report)
    check_repeats(report)
    check_bytes(report)
    check_compilations(report)
    check_two_gpus(report)
    check_gsplat(report)
    return report.finish("check_kernels_gpu", arguments.out)


if __name__ == "__main__":
    run_main(main)
