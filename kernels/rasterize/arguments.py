"""Checks of `rasterize`'s arguments, and their leading axes made one.

Everything after this module sees [B, N, ...] arrays of one floating type with N >= 1.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kernels.checks import require
from kernels.rasterize.types import Background, Gaussians
from kernels.rasterize.xla.binning import COUNT_LIMIT

MAX_SH_DEGREE = 3
DEPTH_KINDS = ("accumulated", "expected", "median")


class Frames(NamedTuple):
    """Arrays of all frames, one after the other; axis 0 has them, or one for all."""

    gaussians: Gaussians
    alive: Bool[Array, "B N"]
    viewmats: Float[Array, "B 4 4"]
    Ks: Float[Array, "B 3 3"]
    background: Background
    lead: tuple[int, ...]  # the leading axes of the arguments
    n_gaussians: int  # may be 0, where the arrays have one that is dead


def check_static(
    *, width: int, height: int, sh_degree: int | None = None, capacity: int | None = None,
    near_plane: float = 0.2, eps2d: float = 0.3, alpha_max: float = 0.99,
    alpha_min: float = 1 / 255, transmittance_min: float = 1e-4, depth_kind: str = "accumulated",
    as_bytes: bool = False,
) -> None:  # fmt: skip
    """Check the numbers that are known while tracing.

    Raises:
      ValueError: if a number makes no sense; the message says what to pass.
    """
    require(
        width > 0 and height > 0,
        f"width, height: expected at least 1 pixel, got {width} x {height}; pass the image's size",
    )
    require(
        sh_degree is None or 0 <= sh_degree <= MAX_SH_DEGREE,
        f"sh_degree: expected None or 0 to {MAX_SH_DEGREE}, got {sh_degree}; pass None for colors",
    )
    require(
        capacity is None or 1 <= capacity < COUNT_LIMIT,
        f"capacity: expected None or 1 to {COUNT_LIMIT - 1}, got {capacity}; None picks one",
    )
    require(
        0 <= near_plane < math.inf,
        f"near_plane: expected >= 0 and finite, got {near_plane}; keep the default 0.2",
    )
    require(
        0 < eps2d < math.inf,
        f"eps2d: expected > 0 pixels^2 and finite, got {eps2d}; keep the default 0.3",
    )
    require(
        0 < alpha_min < alpha_max <= 1,
        f"alpha_min, alpha_max: expected 0 < alpha_min < alpha_max <= 1, got {alpha_min}, "
        f"{alpha_max}; keep the defaults 1/255, 0.99",
    )
    require(
        0 <= transmittance_min < 1,
        f"transmittance_min: expected in [0, 1), got {transmittance_min}; keep the default 1e-4",
    )
    require(
        depth_kind in DEPTH_KINDS,
        f"depth_kind: expected one of {', '.join(DEPTH_KINDS)}, got {depth_kind!r}",
    )
    require(
        not as_bytes or depth_kind == "accumulated",
        f"depth_kind: as_bytes=True gives no depth, got {depth_kind!r}; leave one of them out",
    )


def to_frames(
    arrays: dict[str, Any], width: int, height: int, sh_degree: int | None
) -> tuple[Frames, jnp.dtype]:
    """Make the leading axes of all arrays one, and their types the same.

    Args:
      arrays: By the names of `rasterize`, None where optional and not given.
      width: Of the image [pixels].
      height: Of the image [pixels].
      sh_degree: Of `colors`.

    Returns:
      Arrays of frames, and the floating type of all.

    Raises:
      ValueError: if leading axes or colors do not fit.
    """
    n_gaussians, n_channels = arrays["means"].shape[-2], arrays["colors"].shape[-1]
    behind = arrays["backgrounds"]
    check_colors(arrays["colors"], n_gaussians, sh_degree)
    per_pixel = is_per_pixel(behind, width, height, n_channels)
    trailing = dict(
        means=2, quats=2, scales=2, opacities=1, colors=2 if sh_degree is None else 3,
        means2d_offset=2, alive=1, viewmats=2, Ks=2, backgrounds=3 if per_pixel else 1,
    )  # fmt: skip
    lead = leading_axes(trailing, arrays)
    kinds = (arrays[name] for name in ("means", "scales", "colors", "viewmats"))
    dtype = jnp.promote_types(jnp.result_type(*kinds), jnp.float32)
    if arrays["means2d_offset"] is None:
        arrays = arrays | dict(means2d_offset=jnp.zeros((n_gaussians, 2), dtype))
    frames = {
        name: flatten_frames(arrays[name].astype(dtype), lead, trailing[name])
        for name in ("viewmats", "Ks", *Gaussians._fields)
    }
    viewmats, Ks = (
        jnp.broadcast_to(frames[name], (math.prod(lead), size, size))
        for name, size in (("viewmats", 4), ("Ks", 3))
    )
    alive = arrays["alive"]
    alive = jnp.ones(n_gaussians, bool) if alive is None else alive
    gaussians = Gaussians(*(frames[name] for name in Gaussians._fields))
    gaussians, alive = pad_empty(gaussians, flatten_frames(alive, lead, 1))
    if behind is not None:
        kind = jnp.uint8 if behind.dtype == jnp.uint8 else dtype
        behind = flatten_frames(behind.astype(kind), lead, trailing["backgrounds"])
    return Frames(gaussians, alive, viewmats, Ks, behind, lead, n_gaussians), dtype


def is_per_pixel(backgrounds: Any, width: int, height: int, n_channels: int) -> bool:
    """Tell whether backgrounds have a color per pixel; if not, it is one per frame.

    Raises:
      ValueError: if they have neither form.
    """
    if backgrounds is None or backgrounds.shape[-3:] == (height, width, n_channels):
        return backgrounds is not None
    shape = backgrounds.shape
    turned = shape[-3:] == (width, height, n_channels)
    require(
        shape[-1:] == (n_channels,) and not turned,
        f"backgrounds: expected [..., {height}, {width}, {n_channels}] (height, width, channels of "
        f"colors) or [..., {n_channels}], got {shape}; "
        + ("pass its transpose" if turned else "pass one color per pixel, or one per frame"),
    )
    return False


def leading_axes(trailing: dict[str, int], arrays: dict[str, Array | None]) -> tuple[int, ...]:
    """Broadcast the leading axes of all arrays.

    Args:
      trailing: How many last axes of each array are its own.
      arrays: By the same names; None is skipped.

    Returns:
      The common leading axes.

    Raises:
      ValueError: if they do not broadcast or one is empty.
    """
    leads = {
        name: arrays[name].shape[: arrays[name].ndim - count]
        for name, count in trailing.items()
        if arrays[name] is not None
    }
    try:
        lead = np.broadcast_shapes(*leads.values())
    except ValueError as error:
        raise ValueError(
            f"leading axes: expected shapes that broadcast, got {leads}; pass one set of Gaussians "
            "and cameras per frame, or one for all frames"
        ) from error
    require(0 not in lead, f"leading axes: expected at least one frame, got {leads}")
    return lead


def check_colors(colors: Array, n_gaussians: int, sh_degree: int | None) -> None:
    """Check that `colors` fits the other arrays.

    Raises:
      ValueError: if it does not; the message says which form is expected.
    """
    if sh_degree is None:
        wanted, fits = "[..., N, D]", colors.ndim >= 2 and colors.shape[-2] == n_gaussians
    else:
        n_basis = (sh_degree + 1) ** 2
        wanted = f"[..., N, K >= {n_basis}, D] for sh_degree {sh_degree}"
        fits = colors.ndim >= 3 and colors.shape[-3] == n_gaussians and colors.shape[-2] >= n_basis
    require(
        fits and colors.shape[-1] >= 1,
        f"colors: expected {wanted} with N = {n_gaussians}, got {colors.shape}; sh_degree=None "
        "takes plain colors, a degree takes spherical harmonics",
    )


def flatten_frames(value: Array, lead: tuple[int, ...], trailing: int) -> Array:
    """Make the leading axes one: [B, ...], or [1, ...] for an array that all frames share."""
    own = value.shape[value.ndim - trailing :]
    leads = value.shape[: value.ndim - trailing]
    if math.prod(leads) == 1:
        return value.reshape(1, *own)
    value = value.reshape((1,) * (len(lead) - len(leads)) + value.shape)
    return jnp.broadcast_to(value, (*lead, *own)).reshape(math.prod(lead), *own)


def pad_empty(
    gaussians: Gaussians, alive: Bool[Array, "B N"]
) -> tuple[Gaussians, Bool[Array, "B N"]]:
    """Add a dead Gaussian to an empty set, so that no later stage indexes an empty array."""
    if alive.shape[1] > 0:
        return gaussians, alive

    def pad(value: Array) -> Array:
        return jnp.zeros((value.shape[0], 1, *value.shape[2:]), value.dtype)

    return Gaussians(*map(pad, gaussians)), pad(alive)
