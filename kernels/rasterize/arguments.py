"""Checks of `rasterize`'s arguments, and their leading axes made one.

Everything after this module sees [B, N, ...] arrays of one floating type with N >= 1.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from kernels.checks import require
from kernels.rasterize.types import Gaussians

MAX_SH_DEGREE = 3


def check_static(
    *, width: int, height: int, sh_degree: int | None, capacity: int | None, eps2d: float,
    alpha_max: float, alpha_min: float, transmittance_min: float,
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
        capacity is None or capacity >= 1,
        f"capacity: expected None or at least 1, got {capacity}; None picks one",
    )
    require(eps2d > 0, f"eps2d: expected > 0 pixels^2, got {eps2d}; keep the default 0.3")
    require(
        0 < alpha_min < alpha_max <= 1,
        f"alpha_min, alpha_max: expected 0 < alpha_min < alpha_max <= 1, got {alpha_min}, "
        f"{alpha_max}; keep the defaults 1/255, 0.99",
    )
    require(
        0 <= transmittance_min < 1,
        f"transmittance_min: expected in [0, 1), got {transmittance_min}; keep the default 1e-4",
    )


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
