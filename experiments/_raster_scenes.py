"""Scenes of `check_kernels_gpu`: those of `kernels.rasterize.cases`, larger ones, and options."""

import jax.numpy as jnp
import numpy as np

from kernels.rasterize.cases import head_case, make_case, random_case

ARRAYS = (
    "means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds",
    "means2d_offset",
)  # fmt: skip
SHARED = ARRAYS[:5]
OPTIONS = dict(
    median=dict(depth_kind="median", antialias=True), expected=dict(depth_kind="expected")
)
"""Options that a scene's name may end with."""


def split(case: dict) -> tuple[dict, dict]:
    """Part a case into arrays to differentiate and the rest."""
    case = dict(case)
    case.setdefault("means2d_offset", np.zeros((len(case["means"]), 2), np.float32))
    if "alive" in case:
        case["alive"] = jnp.asarray(case["alive"])
    return {name: jnp.asarray(case.pop(name)) for name in ARRAYS}, case


def make_scene(name: str) -> dict:
    """Make the arguments of `rasterize` for a scene, with the options that its name ends with."""
    name, _, option = name.partition(" ")
    case = EXTRA[name]() if name in EXTRA else make_case(name)
    return case | OPTIONS.get(option, {})


def runs_case() -> dict:
    """Make frames whose one tile has as many instances as a sort takes, one more, one less."""
    counts = np.array([1, 255, 256, 257, 511, 512, 513])
    case = random_case(513, 8, 8, seed=4, size=0.5)
    case["opacities"] *= 0.1
    return case | dict(
        viewmats=np.stack([case["viewmats"]] * len(counts)),
        alive=np.arange(513) < counts[:, None],
    )


def crowd_case() -> dict:
    """Make 5,000 splats in one tile."""
    case = random_case(5000, 16, 16, seed=5, size=0.01)
    case["means"][:, :2] *= 0.2
    case["opacities"] *= 0.1
    return case


def shared_case() -> dict:
    """Make three frames of the same Gaussians over one background."""
    case = make_case("harmonics")
    viewmats = np.stack([case["viewmats"]] * 3)
    viewmats[:, 0, 3] += np.array([-0.1, 0.0, 0.1], np.float32)
    return case | dict(viewmats=viewmats)


def full_hd_case() -> dict:
    """Make a scene of 1920 x 1080 pixels, which is no multiple of a tile."""
    case = random_case(3000, 1920, 1080, seed=6, size=0.02)
    case["opacities"] *= 0.3
    return case


EXTRA = dict(runs=runs_case, crowd=crowd_case, shared=shared_case, full_hd=full_hd_case)


def head_frames(n_frames: int) -> tuple[dict, dict, dict]:
    """Make shared Gaussians, cameras of frames that turn, and static arguments."""
    arrays, static = split(head_case(20_000, 512))
    shared = {name: arrays[name] for name in SHARED}
    frames = {name: jnp.stack([arrays[name]] * n_frames) for name in ARRAYS[5:8]}
    shift = jnp.linspace(-0.1, 0.1, n_frames)
    frames["viewmats"] = frames["viewmats"].at[:, 0, 3].add(shift)
    return shared, frames, static
