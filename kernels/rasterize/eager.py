"""What only numbers can tell: checks of calls outside a trace, where arrays can be read.

Nothing of this happens inside `jit`, `grad` or `vmap`, where arrays have no numbers yet.
"""

import math
import weakref
from typing import Any

import jax
import numpy as np

from kernels.checks import require
from kernels.dispatch import has_told, tell_once
from kernels.rasterize.given import is_concrete
from kernels.rasterize.types import RasterizeAux, RasterizeOutput
from kernels.rasterize.xla.binning import COUNT_LIMIT

RIGID = 0.1  # most that W W^T may be off the identity: poses that were optimized drift
NARROWEST = 0.05  # focal length over the width, under which intrinsics are no pixels: 169 degrees
OVERFLOW, BEHIND = "rasterize: overflow", "rasterize: behind"

_read: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Arrays on a device that were read and found right, which is not done twice."""


def capacity_for(aux: RasterizeAux, margin: float = 1.2) -> int:
    """Find the `capacity` that scenes like this one need, from the counts of a call.

    Every value of `capacity` is another program: take the most of many frames (`aux` of a batch has
    them all), and keep it. Counts are wanted pairs, those dropped included, so one call is enough.

    Args:
      aux: Of `rasterize`, outside of `jit`.
      margin: Room for frames that were not counted, as a factor.

    Returns:
      The most instances of a frame times the margin, rounded up to a multiple of 1024.

    Raises:
      ValueError: if the counts are not known yet, or are more than anything can draw.
    """
    counts = getattr(aux, "n_instances", None)
    require(
        counts is not None and is_concrete(counts),
        f"aux: expected `aux` of `rasterize` outside of jit, got {type(aux).__name__}; return it "
        "from the jitted function first",
    )
    require(
        1 <= margin < math.inf,
        f"margin: expected at least 1 and finite, got {margin}; keep the default 1.2",
    )
    most = int(np.max(np.asarray(counts), initial=0))
    require(
        most < COUNT_LIMIT,
        f"aux.n_instances: expected fewer than {COUNT_LIMIT:,} pairs of Gaussian and tile, got "
        "more; the Gaussians are far too large for the image: check scales and viewmats",
    )
    return max(1, math.ceil(most * margin / 1024)) * 1024


def check_numbers(arrays: dict[str, Any], width: int) -> None:
    """Check what is known of the arguments' numbers.

    Raises:
      ValueError: if they cannot be meant so; the message says what they look like.
    """
    alive = arrays["alive"]
    for name, check in (("scales", _check_scales), ("opacities", _check_opacities)):
        if alive is not None and not is_concrete(alive):
            break
        if values := _unread(arrays[name]):
            check(values[0], None if alive is None else np.asarray(alive))
    if values := _unread(arrays["viewmats"]):
        for viewmat in values[0].reshape(-1, 4, 4):
            _check_viewmat(viewmat)
    if values := _unread(arrays["Ks"]):
        for K in values[0].reshape(-1, 3, 3):
            _check_intrinsics(K, width)


def _unread(array: Any) -> list[np.ndarray]:
    """The array's numbers, if they can be read and have not been."""
    if not is_concrete(array) or _read.get(id(array)) is array:
        return []
    values = np.asarray(array, np.float64)
    if isinstance(array, jax.Array):  # NumPy's may change
        _read[id(array)] = array
    return [values]


def _offenders(wrong: np.ndarray, alive: np.ndarray | None) -> np.ndarray:
    """Of what is wrong, that of Gaussians which are alive."""
    if alive is None or not wrong.any():
        return wrong
    return wrong & alive.reshape(alive.shape + (1,) * (wrong.ndim - alive.ndim))


def _check_scales(scales: np.ndarray, alive: np.ndarray | None) -> None:
    wrong = np.any((scales < 0) & np.isfinite(scales), axis=-1)
    wrong = _offenders(wrong, alive)
    if wrong.any():
        least = np.min(scales, where=np.isfinite(scales), initial=0.0)
        raise ValueError(
            f"scales: expected standard deviations >= 0, got {least:.4g}; if they are logarithms, "
            "pass exp(scales)"
        )


def _check_opacities(opacities: np.ndarray, alive: np.ndarray | None) -> None:
    wrong = ((opacities < 0) | (opacities > 1.001)) & np.isfinite(opacities)
    wrong = _offenders(wrong, alive)
    if wrong.any():
        finite = opacities[np.isfinite(opacities)]
        raise ValueError(
            f"opacities: expected in [0, 1], got {finite.min():.4g} to {finite.max():.4g}; if they "
            "are logits, pass sigmoid(opacities)"
        )


def _check_viewmat(viewmat: np.ndarray) -> None:
    bottom = np.array([0.0, 0.0, 0.0, 1.0])
    shown = np.array2string(viewmat, precision=3, separator=", ").replace("\n", "")
    require(
        bool(np.all(np.isfinite(viewmat))),
        f"viewmats: expected finite numbers, got {shown}; check the camera's pose",
    )
    if not np.allclose(viewmat[3], bottom, atol=1e-3):
        turned = np.allclose(viewmat[:, 3], bottom, atol=1e-3)
        remedy = "pass its transpose" if turned else "pass a rigid transform world -> camera"
        raise ValueError(f"viewmats: expected the last row (0, 0, 0, 1), got {shown}; {remedy}")
    rotation = viewmat[:3, :3]
    off = np.max(np.abs(rotation @ rotation.T - np.eye(3)))
    require(
        bool(off < RIGID and np.linalg.det(rotation) > 0),
        f"viewmats: expected a rotation in {shown}, got one that scales or mirrors; scale the "
        "scene instead, and turn OpenGL's axes by diag(1, -1, -1, 1) @ viewmat",
    )


def _check_intrinsics(K: np.ndarray, width: int) -> None:
    shown = np.array2string(K, precision=4, separator=", ").replace("\n", "")
    turned = np.any(np.abs(K[2, :2]) > 1) and not np.any(K[:2, 2])
    remedy = "pass [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels"
    if turned:
        remedy = "pass its transpose"
    elif np.all(np.abs(K) < 3) and 0 < K[0, 0] < NARROWEST * width:
        remedy = "multiply the first row by width and the second by height"
    elif np.allclose(K[2, :2], 0) and K[2, 2] not in (0, 1):
        remedy = "divide by Ks[2, 2]"
    sound = bool(np.all(np.isfinite(K)) and min(K[0, 0], K[1, 1]) > 0) and not turned
    require(
        sound and K[0, 0] >= NARROWEST * width,
        f"Ks: expected focal lengths > 0 in pixels of {width} a row, got {shown}; {remedy}",
    )
    require(
        np.allclose(K[2], (0, 0, 1), atol=1e-3),
        f"Ks: expected the last row (0, 0, 1), got {shown}; {remedy}",
    )


def tell_of_images(
    out: RasterizeOutput, arrays: dict[str, Any], near_plane: float, capacity: int
) -> None:
    """Say, once a process each, that pairs were dropped, or that all is behind the camera.

    It waits for the counts of the images until both were said.
    """
    counts, dropped = out.aux.n_instances, out.aux.overflow
    if not (is_concrete(counts) and is_concrete(dropped)):
        return
    if not has_told(OVERFLOW) and np.any(np.asarray(dropped)):
        worst = int(np.argmax(np.asarray(dropped)))
        lost, wanted = (int(np.asarray(v).reshape(-1)[worst]) for v in (dropped, counts))
        known = wanted < COUNT_LIMIT
        advice = (
            f"pass capacity=kernels.capacity_for(out.aux), here {capacity_for(out.aux):,}"
            if known else "the Gaussians are far too large for the image: check scales"
        )  # fmt: skip
        tell_once(
            OVERFLOW,
            f"rasterize: {lost:,} of {wanted:,} pairs of Gaussian and tile exceed the capacity "
            f"{capacity:,} and are not drawn, the farthest first; {advice}",
        )
    if not has_told(BEHIND) and not np.any(np.asarray(counts)):
        _tell_of_what_is_behind(arrays, near_plane)


def _tell_of_what_is_behind(arrays: dict[str, Any], near_plane: float) -> None:
    if not (is_concrete(arrays["means"]) and is_concrete(arrays["viewmats"])):
        return
    means, viewmats = (np.asarray(arrays[name], np.float64) for name in ("means", "viewmats"))
    z = np.sum(means * viewmats[..., None, 2, :3], axis=-1) + viewmats[..., None, 2, 3]
    z = z[np.isfinite(z)]
    if z.size and np.all(z < near_plane):
        tell_once(
            BEHIND,
            f"rasterize: nothing is drawn, all Gaussians lie behind the camera's near plane (z "
            f"from {z.min():.3g} to {z.max():.3g}, near_plane {near_plane}); viewmats look along "
            "+z (OpenCV, COLMAP): of OpenGL's or Blender's pass diag(1, -1, -1, 1) @ viewmat, and "
            "of camera -> world its inverse",
        )
