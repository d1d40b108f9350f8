"""The Triton rasterizer on a GPU: right, repeatable, and the same on several GPUs.

Claim: on every scene of `kernels.rasterize.cases` it equals the XLA implementation in float32 and
the dense float64 oracle of the tests; on the head scene it equals gsplat, where that is installed;
100 repeats of a gradient give the same bits; other counts of instances compile nothing anew; two
GPUs give what one gives. Takes about three minutes.

    python -m experiments.check_kernels_gpu [--small]

prints a line per check and exits with 1 if one fails. `--small`: only the small scenes against
the XLA implementation, for a run under `compute-sanitizer`.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from kernels import rasterize
from kernels.rasterize.cases import CASES, head_case, make_case, random_case

TESTS = Path(__file__).parents[1] / "tests" / "kernels"
ARRAYS = (
    "means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds",
    "means2d_offset",
)  # fmt: skip
SHARED = ARRAYS[:5]
REPEATS = 100
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event, one a compilation
WORKERS = 7


class Result(NamedTuple):
    """Outcome of a check."""

    name: str
    passes: bool
    detail: str


class Report:
    """Prints every check and remembers whether one failed."""

    def __init__(self):
        self.failed = 0

    def check(self, name: str, passes: bool, detail: str) -> None:
        """Print one line."""
        self.failed += not passes
        print(f"{'ok  ' if passes else 'FAIL'} {name}: {detail}", flush=True)

    def check_all(self, function: Callable, names: list[str], workers: int) -> None:
        """Check every name, in processes of their own if there are several: they compile long."""
        if workers == 1:
            results = map(function, names)
        else:
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, mp_context=spawn)
            results = pool.map(function, names)
        for result in results:
            for line in result:
                self.check(*line)


def split(case: dict) -> tuple[dict, dict]:
    """Arrays to differentiate, and the rest."""
    case = dict(case)
    case.setdefault("means2d_offset", np.zeros((len(case["means"]), 2), np.float32))
    return {name: jnp.asarray(case.pop(name)) for name in ARRAYS}, case


def noise_like(images: tuple) -> tuple:
    """One fixed random cotangent per image."""
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=image.shape).astype(np.float32) for image in images)


def run(arrays: dict, static: dict, implementation: str, cotangents: tuple | None = None) -> tuple:
    """Images, aux, and the gradients for random cotangents."""

    def images(arrays: dict) -> tuple:
        out = rasterize(**arrays, **static, implementation=implementation)
        return (out.rgb, out.alpha, out.depth), out.aux

    out, pullback, aux = jax.vjp(images, arrays, has_aux=True)
    return out, aux, pullback(noise_like(out) if cotangents is None else cotangents)[0]


def errors(got: tuple, want: tuple, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Largest image error, and largest gradient error relative to each gradient's largest."""
    image = max(
        float(np.max(np.abs(np.asarray(a) - b)[... if mask is None else mask], initial=0.0))
        / max(1.0, float(np.max(np.abs(b))))
        for a, b in zip(got[0], want[0], strict=True)
    )
    gradient = 0.0
    for name, b in want[-1].items():
        scale = float(np.max(np.abs(b), initial=0.0))
        difference = float(np.max(np.abs(np.asarray(got[-1][name]) - b), initial=0.0))
        gradient = max(gradient, difference / scale if scale else difference)
    return image, gradient


def check_head(report: Report) -> None:
    """20,000 splats: float32 decides a few pairs at the alpha floor of 1/255 either way."""
    arrays, static = split(make_case("head_512"))
    got, want = (run(arrays, static, kind) for kind in ("triton", "xla"))
    difference = np.abs(np.asarray(got[0][0]) - np.asarray(want[0][0])).max(axis=-1)
    _, gradient = errors(got, jax.tree.map(np.asarray, want))
    share, worst = float(np.mean(difference > 1e-5)), float(difference.max())
    counts = int(got[1].n_instances), int(want[1].n_instances)
    report.check(
        "xla head_512", share < 1e-3 and worst < 1 / 255 and gradient < 1e-2,
        f"{100 * share:.4f} % of pixels off by more than 1e-5, at most {worst:.1e}; "
        f"gradients {gradient:.1e}; instances {counts}",
    )  # fmt: skip


def runs_case() -> dict:
    """Frames whose one tile has as many instances as a sort takes, and one more or less."""
    counts = np.array([1, 255, 256, 257, 511, 512, 513])
    case = random_case(513, 8, 8, seed=4, size=0.5)
    case["opacities"] *= 0.1
    return case | dict(
        viewmats=np.stack([case["viewmats"]] * len(counts)),
        alive=np.arange(513) < counts[:, None],
    )


def crowd_case() -> dict:
    """5,000 splats in one tile."""
    case = random_case(5000, 16, 16, seed=5, size=0.01)
    case["means"][:, :2] *= 0.2
    case["opacities"] *= 0.1
    return case


def shared_case() -> dict:
    """Three frames of the same Gaussians over one background."""
    case = make_case("harmonics")
    viewmats = np.stack([case["viewmats"]] * 3)
    viewmats[:, 0, 3] += np.array([-0.1, 0.0, 0.1], np.float32)
    return case | dict(viewmats=viewmats)


def full_hd_case() -> dict:
    """1920 x 1080 pixels, which is no multiple of a tile."""
    case = random_case(3000, 1920, 1080, seed=6, size=0.02)
    case["opacities"] *= 0.3
    return case


EXTRA = dict(runs=runs_case, crowd=crowd_case, shared=shared_case, full_hd=full_hd_case)


def check_scene(name: str) -> list[Result]:
    """A scene against the XLA implementation; one of them also at full and overfull capacity."""
    arrays, static = split(EXTRA[name]() if name in EXTRA else make_case(name))
    got = run(arrays, static, "triton")
    want = jax.tree.map(np.asarray, run(arrays, static, "xla"))
    image, gradient = errors(got, want)
    count, wanted = (int(np.sum(aux.n_instances)) for aux in (got[1], want[1]))
    detail = f"{image:.1e}, {gradient:.1e}, instances {count}, {wanted}"
    passes = image < 1e-5 and gradient < 1e-4 and count == wanted
    results = [Result(f"xla {name}", passes, detail)]
    for spare in (0, -1) if name == "tiny" else ():
        limited = static | dict(capacity=count + spare)
        got, want = (run(arrays, limited, kind) for kind in ("triton", "xla"))
        image, gradient = errors(got, jax.tree.map(np.asarray, want))
        passes = image < 1e-5 and gradient < 1e-4 and int(got[1].overflow) == -spare
        results.append(
            Result(f"capacity {name} {spare}", passes, f"{image:.1e}, {gradient:.1e}")
        )  # fmt: skip
    return results


def check_oracle(name: str) -> list[Result]:
    """A small scene against the dense oracle in float64, away from thresholds."""
    sys.path.insert(0, str(TESTS))
    import dense_oracle

    arrays, static = split(make_case(name))
    alive = static.pop("alive", np.ones(len(arrays["means"]), bool))
    size = (static["height"], static["width"])

    def images(wide: dict) -> tuple:
        pairs = jnp.broadcast_to(alive[:, None, None], (len(alive), *size))
        out = dense_oracle.render(
            wide, static["width"], static["height"], pairs=pairs,
            sh_degree=static.get("sh_degree"),
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
    got = run(arrays, static | dict(alive=jnp.asarray(alive)), "triton", noise)
    image, gradient = errors(got, (out, gradients), safe)
    passes = image < 1e-5 and gradient < 1e-4
    return [Result(f"float64 {name}", passes, f"{image:.1e}, {gradient:.1e}")]


def head_frames(n_frames: int) -> tuple[dict, dict, dict]:
    """Shared Gaussians, cameras of frames that turn, static arguments."""
    arrays, static = split(head_case(20_000, 512))
    shared = {name: arrays[name] for name in SHARED}
    frames = {name: jnp.stack([arrays[name]] * n_frames) for name in ARRAYS[5:8]}
    shift = jnp.linspace(-0.1, 0.1, n_frames)
    frames["viewmats"] = frames["viewmats"].at[:, 0, 3].add(shift)
    return shared, frames, static


def check_repeats(report: Report) -> None:
    """The same bits every time."""
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


def check_compilations(report: Report) -> None:
    """Scenes of one shape and very different counts: after the first one, XLA compiles nothing."""
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
    """Frames split over two GPUs by `shard_map`: the same loss and gradient as on one."""
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
    """The head scene against gsplat at its own clamp: image, and gradients of all parameters."""
    try:
        import gsplat
        import torch
    except ImportError as error:
        print(f"skip gsplat: {error}", flush=True)
        return
    arrays, static = split(head_case(50_000, 512))
    target = np.random.default_rng(1).random((512, 512, 3)).astype(np.float32)

    def loss(shared: dict) -> tuple[jax.Array, jax.Array]:
        out = rasterize(**arrays | shared, **static, alpha_max=0.999, implementation="triton")
        return jnp.mean(jnp.abs(out.rgb - target)), out.rgb

    shared = {name: arrays[name] for name in SHARED}
    gradients, image = jax.tree.map(np.asarray, jax.jit(jax.grad(loss, has_aux=True))(shared))
    tensors = {k: torch.from_numpy(np.array(v)).cuda() for k, v in arrays.items()}
    params = [tensors[name].requires_grad_() for name in SHARED]
    rgb, alpha, _ = gsplat.rasterization(
        *params, tensors["viewmats"][None], tensors["Ks"][None], 512, 512, sh_degree=3, packed=False
    )
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


def main(argv: list[str] | None = None) -> int:
    """Run the checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes, torch
    report, small = Report(), sorted(set(CASES) - {"head_512"})
    scenes = small if arguments.small else [*EXTRA, *small]
    report.check_all(check_scene, scenes, 1 if arguments.small else WORKERS)
    if not arguments.small:
        report.check_all(
            check_oracle, [name for name in small if name not in ("non_finite", "empty")], WORKERS
        )  # fmt: skip
        check_head(report)
        check_repeats(report)
        check_compilations(report)
        check_two_gpus(report)
        check_gsplat(report)
    print("all passed" if not report.failed else f"{report.failed} failed", flush=True)
    return int(report.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
