"""Named scenes for the tests and benchmarks of every implementation of `rasterize`.

`make_case(name)` gives numpy arguments of `rasterize` (float32, one frame), the same on every
machine. World units are arbitrary: the camera stands 4 units from the origin.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Case = dict[str, Any]
CAMERA_Z = 4.0
CASES: dict[str, Callable[[], Case]] = {}


def make_case(name: str) -> Case:
    """Keyword arguments of `rasterize` for the named scene.

    Raises:
      ValueError: if there is no such scene; the message lists them.
    """
    if name not in CASES:
        raise ValueError(f"case: expected one of {sorted(CASES)}, got {name!r}")
    return CASES[name]()


def random_case(
    n: int, width: int, height: int, *, seed: int = 0, size: float = 0.08, channels: int = 3
) -> Case:
    """A cloud of `n` anisotropic Gaussians about the origin with a per-pixel background."""
    rng = np.random.default_rng(seed)
    case = dict(
        means=rng.normal(size=(n, 3)) * np.array([0.5, 0.35, 0.4]),
        quats=rng.normal(size=(n, 4)),
        scales=size * np.exp(0.5 * rng.normal(size=(n, 3))),
        opacities=rng.uniform(0.05, 0.95, n),
        colors=rng.random((n, channels)),
        viewmats=_camera(),
        Ks=_intrinsics(width, height),
        backgrounds=rng.random((height, width, channels)),
    )
    return _single(case) | dict(width=width, height=height)


def head_case(n: int, size: int, *, px: float = 1.6, seed: int = 0) -> Case:
    """An ellipsoid shell with shoulders, spherical harmonics of degree 3: a head's workload."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((n, 3))
    means *= np.array([0.55, 0.75, 0.65]) / np.linalg.norm(means, axis=-1, keepdims=True)
    n_shoulders = n // 4
    box = rng.random((n_shoulders, 3)) * np.array([2.4, 0.9, 0.3])
    means[:n_shoulders] = box + np.array([-1.2, 0.6, -0.15])
    sh_coeffs = 0.1 * rng.standard_normal((n, 16, 3))
    sh_coeffs[:, 0] = rng.random((n, 3))
    focal = 1200.0 * size / 512
    case = dict(
        means=means,
        quats=rng.standard_normal((n, 4)),
        scales=np.exp(0.6 * rng.standard_normal((n, 3))) * px * CAMERA_Z / focal,
        opacities=1.0 / (1.0 + np.exp(-2.0 * rng.standard_normal(n))),
        colors=sh_coeffs,
        viewmats=_camera(),
        Ks=_intrinsics(size, size, focal),
        backgrounds=rng.random((size, size, 3)),
    )
    return _single(case) | dict(width=size, height=size, sh_degree=3)


def _camera() -> np.ndarray:
    viewmat = np.eye(4)
    viewmat[:3, 3] = (0.05, -0.03, CAMERA_Z)
    angle = 0.1
    viewmat[0, [0, 2]] = np.cos(angle), np.sin(angle)
    viewmat[2, [0, 2]] = -np.sin(angle), np.cos(angle)
    return viewmat


def _intrinsics(width: int, height: int, focal: float | None = None) -> np.ndarray:
    focal = 2.0 * max(width, height) if focal is None else focal
    return np.array([[focal, 0, width / 2], [0, 1.05 * focal, height / 2], [0, 0, 1]])


def _single(case: Case) -> Case:
    return {
        name: value if value.dtype == bool else value.astype(np.float32)
        for name, value in case.items()
    }


def _case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


@_case
def tiny() -> Case:
    """Forty Gaussians on 40 x 24 pixels: not a multiple of the tile."""
    return random_case(40, 40, 24)


@_case
def head_512() -> Case:
    """The workload that speed is quoted for."""
    return head_case(20_000, 512)


@_case
def harmonics() -> Case:
    """Colors from spherical harmonics, some clamped at zero."""
    case = tiny()
    rng = np.random.default_rng(1)
    return case | dict(colors=rng.normal(size=(40, 16, 3)).astype(np.float32) * 0.4, sh_degree=3)


@_case
def off_center() -> Case:
    """Principal point far off the center and beyond some Gaussians: the ratio clamp is at work."""
    case = random_case(40, 40, 24, seed=2)
    case["Ks"][:2, 2] = (31.0, 4.0)
    case["means"][:8, 0] += 1.2
    return case


@_case
def dense_tile() -> Case:
    """All Gaussians over one tile: a list of 385, many chunks long, that goes opaque."""
    case = random_case(385, 64, 32, seed=3, size=0.02)
    case["means"][:, :2] *= 0.12
    case["opacities"] *= 0.4
    return case


@_case
def empty() -> Case:
    """No Gaussians: the background."""
    return random_case(0, 40, 24)


@_case
def all_culled() -> Case:
    """Everything behind the camera."""
    case = tiny()
    case["means"][:, 2] -= 10.0
    return case


@_case
def huge_splat() -> Case:
    """One Gaussian much larger than the image, in front of the others."""
    case = random_case(40, 40, 24, seed=4)
    case["means"][0] = (0.1, 0.0, -1.0)
    case["scales"][0] = (3.0, 2.0, 0.1)
    return case


@_case
def opaque() -> Case:
    """Opacity 1: alpha is clamped and pixels close early."""
    case = random_case(40, 40, 24, seed=5, size=0.12)
    case["opacities"][:] = 1.0
    return case


@_case
def degenerate() -> Case:
    """Discs and needles down to scale zero: the covariance is singular before the blur."""
    case = random_case(40, 40, 24, seed=6)
    case["scales"][:20, 0] = 0.0
    case["scales"][10:30, 1] = 0.0
    case["scales"][5:15, 2] = 0.6
    return case


@_case
def odd_size() -> Case:
    """One tile and one pixel across, half a tile down; seven channels."""
    return random_case(40, 17, 9, seed=7, channels=7)


@_case
def many_channels() -> Case:
    """Seven channels, large splats."""
    return random_case(40, 17, 9, seed=8, size=0.3, channels=7)


@_case
def dead() -> Case:
    """A third of the Gaussians dead."""
    return random_case(40, 40, 24, seed=9) | dict(alive=np.arange(40) % 3 > 0)


@_case
def list_lengths() -> Case:
    """Eight tiles whose lists hold 1, 31, 32, 33, 63, 64, 65 and 96 Gaussians."""
    lengths = (1, 31, 32, 33, 63, 64, 65, 96)
    n, width, height = sum(lengths), 64, 32
    case = random_case(n, width, height, seed=10, size=0.002)
    tile = np.repeat(np.arange(8), lengths)
    rng = np.random.default_rng(11)
    pixel_x = 16 * (tile % 4) + rng.uniform(5.5, 10.5, n)
    pixel_y = 16 * (tile // 4) + rng.uniform(5.5, 10.5, n)
    z = rng.uniform(3.0, 5.0, n)
    K, viewmat = case["Ks"], case["viewmats"]
    point = np.stack([(pixel_x - K[0, 2]) / K[0, 0] * z, (pixel_y - K[1, 2]) / K[1, 1] * z, z], -1)
    case["means"] = ((point - viewmat[:3, 3]) @ viewmat[:3, :3]).astype(np.float32)
    case["opacities"] = rng.uniform(0.02, 0.3, n).astype(np.float32)
    return case


NON_FINITE = (np.nan, np.inf, -np.inf)


@_case
def non_finite() -> Case:
    """NaN or an infinity somewhere in each of the first fifteen Gaussians."""
    case = random_case(40, 40, 24, seed=12)
    names = ("means", "quats", "scales", "opacities", "colors")
    for i, name in enumerate(names):
        for j, value in enumerate(NON_FINITE):
            case[name].reshape(40, -1)[3 * i + j, -1] = value
    return case
